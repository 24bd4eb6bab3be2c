"""Status of an environment's nodes, and overrides of the profile that add or remove nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile


def added(resolved: Profile, names: Sequence[str], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return overrides of the profile that add the nodes ``names`` (by default the next worker), each with ``keys``.

    Raises DevenvError node_exists.
    """
    existing = [node["name"] for node in resolved["nodes"]]
    chosen = list(names) or [next_worker(existing)]
    for node in chosen:
        if node in existing:
            raise DevenvError("node_exists", f"a node {node} already exists")
    return {f"nodes.{node}": {} for node in chosen} | {
        f"nodes.{node}.{key}": value for node in chosen for key, value in keys.items()
    }


def next_worker(existing: Sequence[str]) -> str:
    """Return the lowest free name of a worker."""
    return next(name for name in map("worker-{}".format, range(len(existing) + 1)) if name not in existing)


def removed(resolved: Profile, names: Sequence[str]) -> dict[str, None]:
    """Return overrides of the profile that remove nodes. Raises DevenvError node_unknown, control_plane_last."""
    members.check_removal(resolved, names)
    return {f"nodes.{node}": None for node in names}


def rows(folder: Path, machines: Mapping[str, str], ask: Callable[[Path], Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return one row per node: ``{name, group, cluster, container, kubernetes, addresses, leaving}``. Leaving nodes
    are in network.yml and no longer in the profile.

    ``machines``: the state of each node's container, machine or host. ``ask`` returns Ready or NotReady by node for a
    kubeconfig.
    """
    profile, network = state.read_profile(folder), state.read_network(folder) or network_plan.EMPTY
    ready: dict[str, str] = {}
    for kubeconfig in sorted(folder.glob("clusters/*/kubeconfig")):
        ready |= ask(kubeconfig)
    gone = network_plan.leaving(profile, network) if profile else list(network["nodes"])
    nodes = [(node["name"], node["group"], node["cluster"]) for node in (profile["nodes"] if profile else [])]
    nodes += [(name, network["nodes"][name].get("group", ""), network["nodes"][name].get("cluster")) for name in gone]
    return [
        {**row(name, group, network, machines, ready), "cluster": cluster or "", "leaving": name in gone}
        for name, group, cluster in nodes
    ]


def row(
    name: str, group: str, network: NetworkPlan, machines: Mapping[str, str], ready: Mapping[str, str]
) -> dict[str, Any]:
    """Return the row of one node, without its cluster."""
    claimed = network["nodes"].get(name)
    places = list(claimed["addresses"].values()) if claimed else []
    return {
        "name": name,
        "group": group,
        "addresses": places,
        "container": machines.get(name, "absent"),
        "kubernetes": next((ready[key] for key in (name, *places) if key in ready), "absent"),
    }
