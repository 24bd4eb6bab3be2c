"""The network of an environment (network.yml): a stable index, address and MAC for each node."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Mapping, Sequence

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import (
    NetworkPlan,
    PlannedCluster,
    PlannedNode,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import ByFamily, Profile

# Before the provider has claimed anything.
EMPTY: NetworkPlan = {"subnets": {}, "gateways": {}, "clusters": {}, "nodes": {}}


def make(profile: Profile, subnets: ByFamily, previous: NetworkPlan | None = None) -> NetworkPlan:
    """Return the plan of an environment in ``subnets``.

    Clusters and nodes keep their index in ``previous``; new ones get the lowest free one, in the profile's order.
    Nodes and clusters that are only in ``previous`` stay, at the end, until ``forget``.
    """
    before = previous or EMPTY
    ordered = {family: subnets[family] for family in profile["families"]}
    members = {node["name"]: (node["group"], node["cluster"]) for node in profile["nodes"]}
    for name in leaving(profile, previous):
        members[name] = (before["nodes"][name].get("group", ""), before["nodes"][name].get("cluster"))
    places = indexes(list(members), previous)
    plan: NetworkPlan = {
        "subnets": ordered,
        "gateways": {family: addresses.gateway(subnet) for family, subnet in ordered.items()},
        "clusters": _clusters(list(profile["clusters"]), ordered, before["clusters"]),
        "nodes": {
            name: _node(places[name], group, cluster, ordered, before["nodes"].get(name))
            for name, (group, cluster) in members.items()
        },
    }
    if before.get("bridge"):
        plan["bridge"] = before["bridge"]
    return plan


def place_of(plan: NetworkPlan, text: str) -> int:
    """Return the place of an address of the environment (addresses.FIRST_HOST is place 0).

    Raises DevenvError address_refused.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise DevenvError("address_refused", f"{text} is not a valid IP address") from None
    subnet = plan["subnets"].get(addresses.family(address))
    if subnet is None or address not in ipaddress.ip_network(subnet):
        raise DevenvError("address_refused", f"{text} is not in {', '.join(plan['subnets'].values())}")
    offset = int(address) - int(ipaddress.ip_network(subnet).network_address)
    digits = str(offset) if address.version == 4 else f"{offset:x}"
    if not digits.isdigit() or int(digits) < addresses.FIRST_HOST:
        raise DevenvError("address_refused", f"{text} is not an address for a node; those start at .10 (::10)")
    return int(digits) - addresses.FIRST_HOST


def move(plan: NetworkPlan, name: str, text: str = "") -> NetworkPlan:
    """Return ``plan`` with another address for the node ``name``: ``text``, by default the next free one, and the
    address of the same place in the other family. Index, MAC and pod range stay. Raises DevenvError address_refused.
    """
    nodes = plan["nodes"]
    taken = {other: node.get("place", node["index"]) for other, node in nodes.items()}
    reserved = {node["index"] for other, node in nodes.items() if other != name}
    if text:
        place = place_of(plan, text)
    else:
        used = {*taken.values(), *reserved}
        place = next(number for number in itertools.count(taken[name] + 1) if number not in used)
    owner = next((other for other, number in taken.items() if number == place and other != name), "")
    if owner or place in reserved:
        raise DevenvError("address_refused", f"{text} is the address of {owner or 'another node'}")
    moved: PlannedNode = {**nodes[name], "place": place, "addresses": _addresses(plan["subnets"], place)}
    return {**plan, "nodes": {**nodes, name: moved}}


def forget(plan: NetworkPlan, names: Iterable[str]) -> NetworkPlan:
    """Return ``plan`` without the nodes ``names``, and without clusters that have no other node."""
    gone = set(names)
    nodes = {name: node for name, node in plan["nodes"].items() if name not in gone}
    used = {node.get("cluster") for node in nodes.values()}
    clusters = {name: cluster for name, cluster in plan["clusters"].items() if name in used}
    return {**plan, "clusters": clusters, "nodes": nodes}


def leaving(profile: Profile, plan: NetworkPlan | None) -> list[str]:
    """Return the names of the nodes that are in ``plan`` and no longer in the profile."""
    names = {node["name"] for node in profile["nodes"]}
    return [name for name in (plan or EMPTY)["nodes"] if name not in names]


def indexes(names: Sequence[str], previous: NetworkPlan | None = None) -> dict[str, int]:
    """Return the index of each node: the one in ``previous``, else the lowest free one, in the order of ``names``."""
    nodes = (previous or EMPTY)["nodes"]
    moved = [node["place"] for node in nodes.values() if "place" in node]
    return _numbered(names, {name: node["index"] for name, node in nodes.items()}, moved)


def _node(index: int, group: str, cluster: str | None, subnets: ByFamily, before: PlannedNode | None) -> PlannedNode:
    node: PlannedNode = {
        "index": index,
        "mac": addresses.mac(subnets, index),
        "addresses": _addresses(subnets, index),
        "group": group,
        "cluster": cluster,
    }
    if before and "place" in before:
        node["place"] = before["place"]
        node["addresses"] = _addresses(subnets, before["place"])
    return node


def _addresses(subnets: ByFamily, place: int) -> ByFamily:
    return {family: str(addresses.address(subnet, place)) for family, subnet in subnets.items()}


def _numbered(names: Iterable[str], kept: Mapping[str, int], more: Iterable[int] = ()) -> dict[str, int]:
    taken = {*kept.values(), *more}
    free = (number for number in itertools.count() if number not in taken)
    return {name: kept[name] if name in kept else next(free) for name in names}


def _clusters(
    names: Sequence[str], subnets: ByFamily, before: Mapping[str, PlannedCluster]
) -> dict[str, PlannedCluster]:
    """Return number and virtual addresses of the clusters; those that are only in ``before`` come last."""
    numbers = _numbered([*names, *before], {name: cluster["index"] for name, cluster in before.items()})
    return {
        name: {"index": n, "virtual": {family: addresses.virtual(net, n) for family, net in subnets.items()}}
        for name, n in numbers.items()
    }
