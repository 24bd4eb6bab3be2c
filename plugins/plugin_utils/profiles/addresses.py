"""Addresses, MACs and pod ranges. Pure arithmetic: nothing here looks at the machine.

The plan of a subnet: gateway ``.1`` / ``::1``, virtual address of the cluster with index c ``.5+c`` / ``::5+c``, node
with index i ``.10+i`` / ``::10+i``. The IPv6 host part repeats the
decimal digits of the IPv4 one (index 15 is ``.25`` and ``::25``), so the two read alike; it is unique since the decimal
number is.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Prefix length of a node's pod range, and of an environment's subnet unless the profile says another.
PREFIX = {"ipv4": 24, "ipv6": 64}
FIRST_VIRTUAL = 5
LARGEST_CLUSTERS = 5
FIRST_HOST = 10
# What four decimal digits hold: the IPv6 number is one group of the address.
_LAST_IPV6 = 9999


def prefixes(network: Mapping[str, Any]) -> dict[str, int]:
    """Prefix length of an environment's subnet by family, from the ``network`` of a resolved profile."""
    return {**PREFIX, "ipv4": int(network.get("node_prefix", PREFIX["ipv4"]))}


def choose(
    pools: Mapping[str, str],
    used: Iterable[Network | str],
    families: Sequence[str],
    prefix: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """The first subnet of each family's pool that overlaps none of ``used`` (any family; default routes do not count).

    ``pools`` and the result: family to CIDR text; ``prefix``: family to prefix length, PREFIX by default. Raises
    DevenvError subnet_none_free.
    """
    taken = [ipaddress.ip_network(network, strict=False) for network in used]
    lengths = prefix or PREFIX
    return {
        family: str(_first_free(ipaddress.ip_network(pools[family]), taken, family, lengths[family]))
        for family in families
    }


def plan(
    resolved: Mapping[str, Any], subnets: Mapping[str, str], previous: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The network of an environment (network.yml): subnets, gateways, each cluster's index and virtual addresses, each
    node's index, MAC, addresses, group and cluster.

    Clusters and nodes keep the index that they have in ``previous``; a new one takes the lowest that is free, in the
    profile's order. What ``previous`` has and the profile has not stays, at the end, until ``forget``.
    """
    known = (previous or {}).get("nodes", {})
    members = {name: (known[name].get("group", ""), known[name].get("cluster")) for name in leaving(resolved, previous)}
    members = {node["name"]: (node["group"], node["cluster"]) for node in resolved["nodes"]} | members
    places = indexes(list(members), previous)
    ordered = {family: subnets[family] for family in resolved["families"]}
    network: dict[str, Any] = {
        "subnets": ordered,
        "gateways": {family: str(_host(subnet, 1)) for family, subnet in ordered.items()},
        "clusters": _planned_clusters(list(resolved["clusters"]), ordered, (previous or {}).get("clusters", {})),
        "nodes": {
            name: {
                "index": places[name],
                "mac": mac(ordered, places[name]),
                **_own_place(known.get(name, {})),
                "addresses": {
                    family: str(address(subnet, _own_place(known.get(name, {})).get("place", places[name])))
                    for family, subnet in ordered.items()
                },
                "group": group,
                "cluster": cluster,
            }
            for name, (group, cluster) in members.items()
        },
    }
    if previous and previous.get("bridge"):
        network["bridge"] = previous["bridge"]
    return network


def _own_place(claimed: Mapping[str, Any]) -> dict[str, int]:
    """A node that got another address than its index gives has ``place``: what the index would be for it."""
    return {"place": int(claimed["place"])} if "place" in claimed else {}


def place_of(network: Mapping[str, Any], text: str) -> int:
    """The place (address number less FIRST_HOST) of an address of the environment. Raises DevenvError
    address_refused.
    """
    try:
        wanted = ipaddress.ip_address(text)
    except ValueError:
        raise DevenvError("address_refused", f"{text} is no IP address") from None
    name = f"ipv{wanted.version}"
    subnet = network["subnets"].get(name)
    if subnet is None or wanted not in ipaddress.ip_network(subnet):
        raise DevenvError("address_refused", f"{text} is not in {', '.join(network['subnets'].values())}")
    offset = int(wanted) - int(ipaddress.ip_network(subnet).network_address)
    digits = str(offset) if wanted.version == 4 else f"{offset:x}"
    if not digits.isdigit() or int(digits) < FIRST_HOST:
        raise DevenvError("address_refused", f"{text} is none that a node gets; they begin with .10 (::10)")
    return int(digits) - FIRST_HOST


def move(network: Mapping[str, Any], name: str, text: str = "") -> dict[str, Any]:
    """``network`` (a network.yml) with another address for the node ``name``: ``text`` and its like in the other
    family, by default the next that is free. Index, MAC and pod range stay. Raises DevenvError address_refused.
    """
    nodes = network["nodes"]
    taken = {other: int(node.get("place", node["index"])) for other, node in nodes.items()}
    indexes_ = {int(node["index"]) for other, node in nodes.items() if other != name}
    if text:
        place = place_of(network, text)
    else:
        place = next(one for one in itertools.count(taken[name] + 1) if one not in {*taken.values(), *indexes_})
    owner = next((other for other, one in taken.items() if one == place and other != name), "")
    if owner or place in indexes_:
        raise DevenvError("address_refused", f"{text} is the address of {owner or 'another node'}")
    own = {**nodes[name], "place": place}
    own["addresses"] = {family: str(address(subnet, place)) for family, subnet in network["subnets"].items()}
    return {**network, "nodes": {**nodes, name: own}}


def forget(network: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """``network`` (a network.yml) without the nodes ``names`` and without clusters that have no node then."""
    gone = set(names)
    nodes = {name: node for name, node in network.get("nodes", {}).items() if name not in gone}
    used = {node.get("cluster") for node in nodes.values()}
    clusters = {name: one for name, one in network.get("clusters", {}).items() if name in used}
    return {**network, "clusters": clusters, "nodes": nodes}


def leaving(resolved: Mapping[str, Any], network: Mapping[str, Any] | None) -> list[str]:
    """Names of the nodes that ``network`` (a network.yml) has and the profile has no longer."""
    wanted = {node["name"] for node in resolved["nodes"]}
    return [name for name in (network or {}).get("nodes", {}) if name not in wanted]


def indexes(names: Sequence[str], previous: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Index of each node: the one in ``previous`` (a network.yml), else the lowest that none there has, in the order of
    ``names``.
    """
    known = (previous or {}).get("nodes", {})
    moved = [int(node["place"]) for node in known.values() if "place" in node]
    return _placed(names, {name: int(node["index"]) for name, node in known.items()}, moved)


def virtual(subnet: str, index: int) -> str:
    """Reserved address of the cluster with ``index`` in ``subnet``. Raises DevenvError nodes_too_many."""
    if index >= LARGEST_CLUSTERS:
        raise DevenvError("nodes_too_many", f"cluster index {index}: the highest is {LARGEST_CLUSTERS - 1}")
    return str(_host(subnet, FIRST_VIRTUAL + index))


def address(subnet: str, index: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Address of the node with ``index`` in ``subnet``. Raises DevenvError nodes_too_many."""
    network = ipaddress.ip_network(subnet)
    check_place(network.prefixlen, family(network), index)
    number = FIRST_HOST + index
    return network.network_address + (number if network.version == 4 else int(str(number), 16))


def check_place(prefix: int, name: str, index: int) -> None:
    """Raise DevenvError nodes_too_many when a subnet of family ``name`` has no address for the node with ``index``.
    ``prefix`` is the length of an IPv4 subnet; an IPv6 one has always the same place.
    """
    last = (1 << (32 - prefix)) - 2 if name == "ipv4" else _LAST_IPV6
    if FIRST_HOST + index > last:
        raise DevenvError("nodes_too_many", f"node index {index}: the highest is {last - FIRST_HOST}")


def _placed(names: Iterable[str], kept: Mapping[str, int], more: Iterable[int] = ()) -> dict[str, int]:
    taken = {*kept.values(), *more}
    free = (number for number in itertools.count() if number not in taken)
    return {name: kept[name] if name in kept else next(free) for name in names}


def _planned_clusters(
    names: Sequence[str], subnets: Mapping[str, str], known: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Index and virtual addresses of the clusters, those that only ``known`` has at the end."""
    places = _placed([*names, *known], {name: int(one["index"]) for name, one in known.items()})
    return {
        name: {"index": place, "virtual": {family: virtual(subnet, place) for family, subnet in subnets.items()}}
        for name, place in places.items()
    }


def mac(subnets: Mapping[str, str], index: int) -> str:
    """Locally administered MAC of a node: the same subnets and index always give the same one.

    ``52:54`` and the four bytes of the IPv4 address; without IPv4 ``52:56``, three bytes of a digest of the IPv6 subnet
    and the number of the node, or, for a number that takes two bytes, ``52:57``, two of the digest and the number.
    """
    if "ipv4" in subnets:
        tail = address(subnets["ipv4"], index).packed
        return ":".join(f"{byte:02x}" for byte in b"\x52\x54" + tail)
    digest = hashlib.sha256(str(ipaddress.ip_network(subnets["ipv6"])).encode()).digest()
    number = FIRST_HOST + index
    tail = b"\x56" + digest[:3] + bytes([number]) if number < 256 else b"\x57" + digest[:2] + number.to_bytes(2, "big")
    return ":".join(f"{byte:02x}" for byte in b"\x52" + tail)


def pod_cidr(pool: str, index: int) -> str:
    """Pod range of the node with ``index``: the index-th /24 or /64 of ``pool``. Raises DevenvError nodes_too_many."""
    network = ipaddress.ip_network(pool)
    prefix = PREFIX[family(network)]
    if index >= 1 << (prefix - network.prefixlen):
        raise DevenvError("nodes_too_many", f"pod pool {pool} has no range for node index {index}")
    start = int(network.network_address) + (index << (network.max_prefixlen - prefix))
    return str(type(network)((start, prefix)))


def family(network: Network) -> str:
    """``ipv4`` or ``ipv6``"""
    return f"ipv{network.version}"


def _first_free(pool: Network, taken: Sequence[Network], name: str, prefix: int) -> Network:
    step = 1 << (pool.max_prefixlen - prefix)
    start, end = int(pool.network_address), int(pool.broadcast_address)
    others = [net for net in taken if net.version == pool.version and net.prefixlen > 0]
    while start <= end:
        last = start + step - 1
        above = [
            int(net.broadcast_address)
            for net in others
            if int(net.network_address) <= last and int(net.broadcast_address) >= start
        ]
        if not above:
            return type(pool)((start, prefix))
        # Behind all that is in the way, on the grid: a pool may hold too many subnets to try each.
        start = (max(above) // step + 1) * step
    raise DevenvError("subnet_none_free", f"no free /{prefix} in {pool}", where=f"network.node_pools.{name}")


def _host(subnet: str, number: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_network(subnet).network_address + number
