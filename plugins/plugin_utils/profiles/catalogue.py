"""The profiles that come with devenv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data, engines, names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile


def aliases(configs: Path = paths.CONFIGS) -> dict[str, str]:
    """Return the canonical names that short names stand for."""
    return {alias: resolve(alias, configs=configs)["profile"] for alias in data.stems(configs / "profiles")}


def describe(configs: Path = paths.CONFIGS) -> list[dict[str, Any]]:
    """Return a row per canonical name: profile, aliases, description, topology, stack, addressing, provider, engine,
    nodes, control_plane, arbiters, workers (counts), cpus, memory, disk (sums of limits, bytes), in_use (sums as
    measured).
    """
    short: dict[str, list[str]] = {}
    for alias, name in aliases(configs).items():
        short.setdefault(name, []).append(alias)
    return [_row(resolve(name, configs=configs), short.get(name, []), configs) for name in names.canonical(configs)]


def _row(profile: Profile, short: list[str], configs: Path) -> dict[str, Any]:
    nodes = profile["nodes"]
    topology = data.read(configs / "topologies" / f"{profile['topology']}.yml")
    network = data.read(configs / "networks" / f"{profile['stack']}.yml")
    groups = [node["group"] for node in nodes]
    return {
        "profile": profile["profile"],
        "aliases": sorted(short),
        "description": f"{topology['description']} {network['description']}",
        "topology": profile["topology"],
        "stack": profile["stack"],
        "addressing": profile["addressing"],
        "provider": profile["provider"],
        "engine": profile["kubernetes"]["engine"],
        "nodes": len(nodes),
        **{group: groups.count(group) for group in ("control_plane", "arbiters", "workers")},
        "cpus": sum(node["cpus"] for node in nodes),
        "memory": sum(node["memory"] for node in nodes),
        "disk": sum(node["disk"] for node in nodes),
        "in_use": engines.in_use(nodes, profile["kubernetes"]["engine"], configs),
    }
