"""A node of the profile, at its place in the environment's network."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan, NodeVariables
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import ExistingHost, Node, Profile

# https://kubernetes.io/docs/reference/labels-annotations-taints/#node-role-kubernetes-io-control-plane-taint
ROLE_TAINT = "node-role.kubernetes.io/control-plane:NoSchedule"


@dataclass(frozen=True)
class NodeSpec:
    """A node of the profile. Sizes in bytes; a bare node's ``cluster`` is empty; ``addresses``, ``prefixes``,
    ``gateways`` and ``pod_cidrs`` in the families' order (no ``pod_cidrs``: the engine chooses them). With ``dhcp``
    the node requests its addresses and gets these. ``host`` is its machine with the provider ``existing``; ``image``
    that of its machine, or the name of its base image, if it is not the provider's own.
    """

    name: str
    group: str
    cluster: str = ""
    cpus: int = 0
    memory: int = 0
    disk: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    mac: str = ""
    addresses: tuple[str, ...] = ()
    prefixes: tuple[int, ...] = ()
    gateways: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    dhcp: bool = False
    host: ExistingHost | None = None
    image: str = ""
    base_image: str = ""

    @property
    def families(self) -> list[str]:
        """The family of each address, ``ipv4`` or ``ipv6``."""
        return [f"ipv{ipaddress.ip_address(address).version}" for address in self.addresses]

    @property
    def interfaces(self) -> list[str]:
        """The addresses with their prefix lengths."""
        return [f"{address}/{prefix}" for address, prefix in zip(self.addresses, self.prefixes, strict=True)]


def planned(profile: Profile, plan: NetworkPlan) -> list[NodeSpec]:
    """Return the profile's nodes at their places in ``plan`` (network.yml)."""
    return [_planned(node, profile, plan) for node in profile["nodes"]]


def _planned(node: Node, profile: Profile, plan: NetworkPlan) -> NodeSpec:
    families, place = profile["families"], plan["nodes"][node["name"]]
    engine = profile["kubernetes"]["engine"]
    return NodeSpec(
        name=node["name"],
        group=node["group"],
        cluster=node["cluster"] or "",
        cpus=node["cpus"],
        memory=node["memory"],
        disk=node["disk"],
        labels=node["labels"],
        taints=_taints(node["group"], tuple(node["taints"]), engine, schedulable=node["schedulable"]),
        mac=place["mac"],
        addresses=tuple(place["addresses"][family] for family in families),
        prefixes=tuple(ipaddress.ip_network(plan["subnets"][family]).prefixlen for family in families),
        gateways=tuple(plan["gateways"][family] for family in families),
        dhcp=profile["addressing"] == "dhcp",
        image=node.get("image", ""),
        base_image=node.get("base_image", ""),
    )


def from_variables(name: str, variables: NodeVariables) -> NodeSpec:
    """Return the node ``name`` that variables of the inventory describe.

    Raises DevenvError ``inventory_incomplete`` if it has no group: it is not from the profile inventory.
    """
    if "devenv_group" not in variables:
        raise DevenvError("inventory_incomplete", "has no variable devenv_group", where=name)
    group, engine = str(variables["devenv_group"]), str(variables.get("devenv_engine") or "")
    # Without an engine, nobody has given the node the taint of its role.
    schedulable = not engine or bool(variables.get("devenv_schedulable", True))
    return NodeSpec(
        name=name,
        group=group,
        cluster=str(variables.get("devenv_cluster") or ""),
        cpus=int(variables.get("devenv_cpus") or 0),
        memory=int(variables.get("devenv_memory") or 0),
        disk=int(variables.get("devenv_disk") or 0),
        labels={str(key): str(value) for key, value in dict(variables.get("devenv_labels") or {}).items()},
        taints=_taints(group, _texts(variables.get("devenv_taints")), engine, schedulable=schedulable),
        mac=str(variables.get("devenv_mac") or ""),
        addresses=_texts(variables.get("devenv_addresses")),
        prefixes=tuple(int(prefix) for prefix in variables.get("devenv_prefixes") or ()),
        gateways=_texts(variables.get("devenv_gateways")),
        pod_cidrs=_texts(variables.get("devenv_pod_cidrs")),
        dhcp=variables.get("devenv_addressing") == "dhcp",
        host=variables.get("devenv_host"),
    )


def _taints(group: str, taints: tuple[str, ...], engine: str, *, schedulable: bool) -> tuple[str, ...]:
    """Return a node's own taints and, if it is a control plane node and not schedulable, the taint of its role."""
    is_open = schedulable or group != "control_plane" or not engines.traits(engine)["control_plane_taint"]
    return taints if is_open or ROLE_TAINT in taints else (*taints, ROLE_TAINT)


def _texts(values: Iterable[str] | None) -> tuple[str, ...]:
    # Ansible's values are subclasses of str.
    return tuple(str(value) for value in values or ())
