"""Clusters whose data are gone: a run refuses them, or creates them again if it accepts the loss."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import data
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Request


def clusters(
    request: Request, intact: Collection[str], volumes: Callable[[Request, str], list[str]] = lambda _request, _node: []
) -> list[str]:
    """Return the clusters that can only be created again. ``intact``: nodes whose data exist; ``volumes`` returns the
    names of a node's volumes. Raises DevenvError ``cluster_lost`` or ``quorum_lost`` unless the run accepts it.
    """
    lost = members.lost(members.recorded(request.folder), intact)
    for cluster, names in lost.items() if not request.recreate else ():
        found = {node: volumes(request, node) for node in nodes_of(request, [cluster])}
        further = [f"volumes on {node}: {', '.join(names)}" for node, names in found.items() if names]
        raise members.loss(cluster, names, intact, further)
    return list(lost)


def nodes_of(request: Request, names: Collection[str | None]) -> list[str]:
    """Return the nodes of these clusters; None stands for the bare nodes."""
    return [node["name"] for node in request.profile["nodes"] if node["cluster"] in names]


def was_reachable(state: Path, node: str) -> bool:
    """Return whether a node was once reachable: then it is in the static inventory."""
    try:
        return node in data.read(state / "inventory.yml")["all"]["hosts"]
    except FileNotFoundError:
        return False
