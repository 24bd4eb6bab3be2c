"""The clusters of a run, from the inventory's host variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import nodes
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NodeVariables


@dataclass(frozen=True)
class Cluster:
    """A cluster of the environment: its nodes in the inventory's order and what they share.

    ``endpoint`` is the name of its control plane (port 6443), ``endpoint_addresses`` are the addresses of the name, in
    the families' order. ``storage_class`` is that of the profile (empty: none); ``metrics``: whether it has the metrics
    API; ``checks``: the profile's own, each ``{name, command, timeout}``.
    """

    name: str
    kubeconfig: Path
    engine: str
    version: str
    families: tuple[str, ...]
    nodes: tuple[NodeSpec, ...]
    endpoint: str = ""
    endpoint_addresses: tuple[str, ...] = ()
    storage_class: str = ""
    metrics: bool = False
    checks: tuple[Mapping[str, Any], ...] = ()

    @property
    def control_plane(self) -> tuple[NodeSpec, ...]:
        return tuple(node for node in self.nodes if node.group == "control_plane")


def by_node(objects: Iterable[Mapping[str, Any]], cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Return Node objects by the inventory's names. Some engines register a node by its address; an object that is not
    a node of ``cluster`` keeps its own name.
    """
    names = {address: node.name for node in cluster.nodes for address in node.addresses}
    names |= {node.name: node.name for node in cluster.nodes}
    by_name = {str(item["metadata"]["name"]): dict(item) for item in objects}
    return {names.get(name, name): item for name, item in by_name.items()}


def from_hostvars(
    hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], only: Sequence[str] = ()
) -> list[Cluster]:
    """Return the clusters of ``hosts``, or those of them named in ``only``; bare nodes are left out.

    Raises DevenvError ``inventory_incomplete`` if a host lacks a variable that the profile inventory sets,
    ``cluster_unknown`` if there is no cluster of a name in ``only``.
    """
    members: dict[str, list[str]] = {}
    for host in hosts:
        cluster = _variable(hostvars, host, "devenv_cluster")
        if cluster:
            members.setdefault(str(cluster), []).append(host)
    unknown = [name for name in only if name not in members]
    if unknown:
        listed = ", ".join(members) or "none"
        raise DevenvError("cluster_unknown", f"no cluster {', '.join(unknown)}", advice=f"The clusters are: {listed}.")
    return [_cluster(name, nodes, hostvars) for name, nodes in members.items() if not only or name in only]


def _cluster(name: str, hosts: list[str], hostvars: Mapping[str, Mapping[str, Any]]) -> Cluster:
    # All nodes of a cluster have the same values.
    variables = hostvars[hosts[0]]

    def required(variable: str) -> Any:
        return _variable(hostvars, hosts[0], variable)

    profile = variables.get("devenv_profile") or {}
    storage = profile.get("storage") or {}
    return Cluster(
        name=name,
        kubeconfig=Path(str(required("devenv_kubeconfig"))),
        engine=str(required("devenv_engine")),
        version=str(required("devenv_kubernetes_version")),
        families=tuple(str(family) for family in required("devenv_families")),
        nodes=tuple(nodes.from_variables(host, cast(NodeVariables, hostvars[host])) for host in hosts),
        endpoint=str(variables.get("devenv_endpoint") or ""),
        endpoint_addresses=tuple(str(address) for address in variables.get("devenv_endpoint_addresses") or ()),
        storage_class=str(storage["class"]) if storage.get("enabled") else "",
        metrics=bool((profile.get("metrics") or {}).get("enabled")),
        checks=tuple(dict(check) for check in (profile.get("validate") or {}).get("checks") or ()),
    )


def _variable(hostvars: Mapping[str, Mapping[str, Any]], host: str, variable: str) -> Any:
    try:
        return hostvars[host][variable]
    except KeyError:
        raise DevenvError("inventory_incomplete", f"has no variable {variable}", where=host) from None
