"""Arithmetic of addresses, MACs and pod ranges, independent of the machine.

The plan of a subnet: gateway ``.1`` / ``::1``, virtual address of the cluster with index c ``.5+c`` / ``::5+c``, node
with index i ``.10+i`` / ``::10+i``. The IPv6 host part repeats the decimal digits of the IPv4 one (index 15 is ``.25``
and ``::25``), so that both are easy to recognise; it is unique because the decimal number is.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import AddressPools

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Prefix length of a node's pod range, and of an environment's subnet unless the profile sets another.
PREFIX = {"ipv4": 24, "ipv6": 64}
FIRST_VIRTUAL = 5
LARGEST_CLUSTERS = 5
FIRST_HOST = 10
# The largest number of four decimal digits: the IPv6 number is one group of the address.
_LAST_IPV6 = 9999
# The widest private ranges, 10.0.0.0/8 and fc00::/7. A wider route leads to the internet, as the two halves of a VPN's
# default route do (0.0.0.0/1 and 128.0.0.0/1).
_WIDEST_PRIVATE = {4: 8, 6: 7}
# Conflicting networks that a message names, the widest first.
_NAMED = 3


def prefixes(pools: AddressPools) -> dict[str, int]:
    """Return the prefix length of an environment's subnet by family."""
    return {**PREFIX, "ipv4": pools["node_prefix"]}


def choose(
    pools: Mapping[str, str],
    used: Mapping[str, str],
    families: Sequence[str],
    prefix: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Return each family's first subnet that overlaps none of ``used`` (network to its owner; of any family).

    ``pools`` and the result map a family to a network in CIDR form, ``prefix`` a family to a prefix length. Raises
    DevenvError subnet_none_free, which names the owners of the pool's networks.
    """
    lengths = prefix or PREFIX
    return {
        family: _first_free(ipaddress.ip_network(pools[family]), used, family, lengths[family]) for family in families
    }


def is_default_route(network: Network) -> bool:
    """Return whether a route to this network is (a part of) a default route."""
    return network.prefixlen < _WIDEST_PRIVATE[network.version]


def gateway(subnet: str) -> str:
    """Return the gateway's address in ``subnet``."""
    return str(_host(subnet, 1))


def virtual(subnet: str, index: int) -> str:
    """Return the address reserved for the cluster with ``index``. Raises DevenvError nodes_too_many."""
    if index >= LARGEST_CLUSTERS:
        raise DevenvError("nodes_too_many", f"cluster index {index}: the highest is {LARGEST_CLUSTERS - 1}")
    return str(_host(subnet, FIRST_VIRTUAL + index))


def address(subnet: str, index: int) -> Address:
    """Return the address of the node with ``index`` in ``subnet``. Raises DevenvError nodes_too_many."""
    network = ipaddress.ip_network(subnet)
    check_place(network.prefixlen, family(network), index)
    number = FIRST_HOST + index
    return network.network_address + (number if network.version == 4 else int(str(number), 16))


def check_place(prefix: int, name: str, index: int) -> None:
    """Raise DevenvError nodes_too_many if a subnet of family ``name`` has no address for the node with ``index``.

    ``prefix`` is the length of an IPv4 subnet; the capacity of an IPv6 one does not depend on its length.
    """
    last = (1 << (32 - prefix)) - 2 if name == "ipv4" else _LAST_IPV6
    if FIRST_HOST + index > last:
        raise DevenvError("nodes_too_many", f"node index {index}: the highest is {last - FIRST_HOST}")


def mac(subnets: Mapping[str, str], index: int) -> str:
    """Return the locally administered MAC of a node: always the same one for the same subnets and index.

    With IPv4, ``52:54`` and the four bytes of the address. Without, ``52:56``, three bytes of a digest of the IPv6
    subnet and the node's number, or ``52:57``, two bytes of the digest and a number of two bytes.
    """
    if "ipv4" in subnets:
        tail = address(subnets["ipv4"], index).packed
        return ":".join(f"{byte:02x}" for byte in b"\x52\x54" + tail)
    digest = hashlib.sha256(str(ipaddress.ip_network(subnets["ipv6"])).encode()).digest()
    number = FIRST_HOST + index
    tail = b"\x56" + digest[:3] + bytes([number]) if number < 256 else b"\x57" + digest[:2] + number.to_bytes(2, "big")
    return ":".join(f"{byte:02x}" for byte in b"\x52" + tail)


def pod_cidr(pool: str, index: int) -> str:
    """Return the pod range of the node with ``index``: the index-th /24 or /64 of ``pool``.

    Raises DevenvError nodes_too_many.
    """
    network = ipaddress.ip_network(pool)
    prefix = PREFIX[family(network)]
    if index >= 1 << (prefix - network.prefixlen):
        raise DevenvError("nodes_too_many", f"pod pool {pool} has no range for node index {index}")
    start = int(network.network_address) + (index << (network.max_prefixlen - prefix))
    return str(type(network)((start, prefix)))


def family_of(text: str) -> str:
    """Return ``ipv4`` or ``ipv6``, the family of an address."""
    return family(ipaddress.ip_address(text))


def is_ordinary(address: Address | Network) -> bool:
    """Return whether nodes can have this address or network: unicast, neither loopback nor link-local."""
    special = address.is_loopback or address.is_multicast or address.is_link_local or address.is_unspecified
    return not special


def overlap(first: Network, second: Network) -> bool:
    """Return whether two networks overlap; those of different families do not."""
    return first.version == second.version and first.overlaps(second)


def family(network: Address | Network) -> str:
    """Return ``ipv4`` or ``ipv6``."""
    return f"ipv{network.version}"


def _first_free(pool: Network, used: Mapping[str, str], name: str, prefix: int) -> str:
    step = 1 << (pool.max_prefixlen - prefix)
    start, end = int(pool.network_address), int(pool.broadcast_address)
    taken = {text: ipaddress.ip_network(text, strict=False) for text in used}
    others = {text: network for text, network in taken.items() if overlap(network, pool)}
    while start <= end:
        last = start + step - 1
        above = [
            int(network.broadcast_address)
            for network in others.values()
            if int(network.network_address) <= last and int(network.broadcast_address) >= start
        ]
        if not above:
            return str(type(pool)((start, prefix)))
        # Skip everything that overlaps: a pool can have too many subnets to try each.
        start = (max(above) // step + 1) * step
    owners = [f"{text} ({used[text]})" for text in sorted(others, key=lambda text: others[text].prefixlen)]
    message = f"no free /{prefix} in {pool}; in use: {', '.join(owners[:_NAMED])}"
    more = f" and {len(owners) - _NAMED} more" if len(owners) > _NAMED else ""
    raise DevenvError("subnet_none_free", message + more, where=f"network.node_pools.{name}")


def _host(subnet: str, number: int) -> Address:
    return ipaddress.ip_network(subnet).network_address + number
