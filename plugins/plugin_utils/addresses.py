"""Addresses, MACs and pod ranges. Pure arithmetic: nothing here looks at the machine.

The plan of a subnet: gateway ``.1`` / ``::1``, node with index i ``.10+i`` / ``::10+i``. The IPv6 host part repeats the
decimal digits of the IPv4 one (index 15 is ``.25`` and ``::25``), so the two read alike; it is unique since the decimal
number is.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.errors import DevenvError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Prefix length of an environment's subnet and of a node's pod range.
PREFIX = {"ipv4": 24, "ipv6": 64}
FIRST_HOST = 10
LAST_HOST = 254


def choose(pools: Mapping[str, str], used: Iterable[Network | str], families: Sequence[str]) -> dict[str, str]:
    """The first subnet of each family's pool that overlaps none of ``used`` (any family; default routes do not count).

    ``pools`` and the result: family to CIDR text. Raises DevenvError subnet_none_free.
    """
    taken = [ipaddress.ip_network(network, strict=False) for network in used]
    return {family: str(_first_free(ipaddress.ip_network(pools[family]), taken, family)) for family in families}


def plan(
    resolved: Mapping[str, Any], subnets: Mapping[str, str], previous: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The network of an environment (network.yml): subnets, gateways and each node's index, MAC and addresses.

    A node keeps the index that it has in ``previous``; a new one takes the lowest that is free, in the profile's order.
    """
    names = [node["name"] for node in resolved["nodes"]]
    places = indexes(names, previous)
    ordered = {family: subnets[family] for family in resolved["families"]}
    network: dict[str, Any] = {
        "subnets": ordered,
        "gateways": {family: str(_host(subnet, 1)) for family, subnet in ordered.items()},
        "nodes": {
            name: {
                "index": places[name],
                "mac": mac(ordered, places[name]),
                "addresses": {family: str(address(subnet, places[name])) for family, subnet in ordered.items()},
            }
            for name in names
        },
    }
    if previous and previous.get("bridge"):
        network["bridge"] = previous["bridge"]
    return network


def indexes(names: Sequence[str], previous: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Index of each node: the one in ``previous`` (a network.yml), else the lowest free, in the order of ``names``."""
    kept = {name: int(node["index"]) for name, node in (previous or {}).get("nodes", {}).items()}
    found = {name: kept[name] for name in names if name in kept}
    free = iter(sorted(set(range(len(names))) - set(found.values())))
    return {name: found[name] if name in found else next(free) for name in names}


def address(subnet: str, index: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Address of the node with ``index`` in ``subnet``. Raises DevenvError nodes_too_many."""
    number = FIRST_HOST + index
    if number > LAST_HOST:
        raise DevenvError("nodes_too_many", f"node index {index}: the highest is {LAST_HOST - FIRST_HOST}")
    version = ipaddress.ip_network(subnet).version
    return _host(subnet, number if version == 4 else int(str(number), 16))


def mac(subnets: Mapping[str, str], index: int) -> str:
    """Locally administered MAC of a node: the same subnets and index always give the same one.

    ``52:54`` and the four bytes of the IPv4 address; without IPv4 ``52:56``, three bytes of a digest of the IPv6 subnet
    and the number of the node.
    """
    if "ipv4" in subnets:
        tail = address(subnets["ipv4"], index).packed
        return ":".join(f"{byte:02x}" for byte in b"\x52\x54" + tail)
    digest = hashlib.sha256(str(ipaddress.ip_network(subnets["ipv6"])).encode()).digest()
    return ":".join(f"{byte:02x}" for byte in b"\x52\x56" + digest[:3] + bytes([FIRST_HOST + index]))


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


def _first_free(pool: Network, taken: Sequence[Network], name: str) -> Network:
    prefix = PREFIX[name]
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
