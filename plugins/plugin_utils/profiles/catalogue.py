"""The profiles that come with devenv."""

from __future__ import annotations

from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data, engines, names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile


def aliases() -> dict[str, str]:
    """Return the canonical name of each short name."""
    return {alias: resolve(alias)["profile"] for alias in data.names_in("profiles")}


def describe() -> list[dict[str, Any]]:
    """Return one row per canonical name: profile, aliases, description, topology, stack, addressing, provider, engine,
    nodes, control_plane, arbiters, workers (counts), cpus, memory, disk (sums of limits, bytes), in_use (measured
    sums).
    """
    short: dict[str, list[str]] = {}
    for alias, name in aliases().items():
        short.setdefault(name, []).append(alias)
    return [_row(resolve(name), short.get(name, [])) for name in names.canonical()]


def _row(profile: Profile, short: list[str]) -> dict[str, Any]:
    nodes, engine = profile["nodes"], profile["kubernetes"]["engine"]
    topology = data.read(f"topologies/{profile['topology']}")["description"]
    network = data.read(f"networks/{profile['stack']}")["description"]
    groups = [node["group"] for node in nodes]
    return {
        "profile": profile["profile"],
        "aliases": sorted(short),
        "description": f"{topology} {network}",
        "topology": profile["topology"],
        "stack": profile["stack"],
        "addressing": profile["addressing"],
        "provider": profile["provider"],
        "engine": engine,
        "nodes": len(nodes),
        **{group: groups.count(group) for group in ("control_plane", "arbiters", "workers")},
        "cpus": sum(node["cpus"] for node in nodes),
        "memory": sum(node["memory"] for node in nodes),
        "disk": sum(node["disk"] for node in nodes),
        "in_use": engines.in_use(nodes, engine),
    }
