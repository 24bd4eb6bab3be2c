"""Nodes of an environment: what is known of each, and which keys of the profile add and remove some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses


def added(resolved: Mapping[str, Any], wanted: Sequence[str], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return overrides of the profile that add the nodes ``wanted`` (none: the next worker), each with ``keys``.

    Raises DevenvError node_exists.
    """
    have = [node["name"] for node in resolved["nodes"]]
    chosen = list(wanted) or [next_worker(have)]
    for node in chosen:
        if node in have:
            raise DevenvError("node_exists", f"there is a node {node} already")
    return {f"nodes.{node}": {} for node in chosen} | {
        f"nodes.{node}.{key}": value for node in chosen for key, value in keys.items()
    }


def next_worker(have: Sequence[str]) -> str:
    """Return the lowest free name of a worker."""
    return next(name for name in (f"worker-{number}" for number in range(len(have) + 1)) if name not in have)


def removed(resolved: Mapping[str, Any], unwanted: Sequence[str]) -> dict[str, None]:
    """Return overrides of the profile that take nodes away. Raises DevenvError node_unknown, control_plane_last."""
    members.check_removal(resolved, unwanted)
    return {f"nodes.{node}": None for node in unwanted}


def rows(folder: Path, machines: Mapping[str, str], ask: Callable[[Path], Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return a row a node: ``{name, group, cluster, container, kubernetes, addresses, leaving}``. Those that leave are
    in network.yml and no longer in the profile.

    ``machines``: the state of each node's container, machine or host. ``ask`` returns Ready or NotReady by node for a
    kubeconfig.
    """
    profile = state.read_profile(folder) or {"nodes": []}
    network = state.read_network(folder) or {}
    ready: dict[str, str] = {}
    for kubeconfig in sorted(folder.glob("clusters/*/kubeconfig")):
        ready |= ask(kubeconfig)
    gone = [{"name": one, **network["nodes"][one]} for one in addresses.leaving(profile, network)]
    return [
        {
            **row(node, network, machines, ready),
            "cluster": node.get("cluster") or "",
            "leaving": place >= len(profile["nodes"]),
        }
        for place, node in enumerate([*profile["nodes"], *gone])
    ]


def row(
    node: Mapping[str, Any], network: Mapping[str, Any], machines: Mapping[str, str], ready: Mapping[str, str]
) -> dict[str, Any]:
    """Return what is known of one node, without its cluster."""
    claimed = network.get("nodes", {}).get(node["name"], {})
    places = list(claimed.get("addresses", {}).values())
    return {
        "name": node["name"],
        "group": node["group"],
        "addresses": places,
        "container": machines.get(node["name"], "absent"),
        "kubernetes": next((ready[name] for name in (node["name"], *places) if name in ready), "absent"),
    }
