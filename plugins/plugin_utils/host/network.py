"""The network of an environment on this host: its claim of a subnet, its bridge, its nft table, and DHCP on it.

Names and subnets are machine-wide: the caller that chooses them holds the allocator lock.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp, firewall
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses, data
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import AddressPools

ALLOCATOR = paths.LOCKS / "allocator.lock"


@dataclass(frozen=True)
class Network:
    """The network that an environment has claimed; ``bridge`` is the link's name on this host."""

    name: str
    environment: str
    home: str
    bridge: str
    subnets: list[str]


def network_name(environment: str) -> str:
    """Return the name of the environment's network and of its nft table."""
    return f"devenv-{environment}"


# --- subnets ----------------------------------------------------------------------------------------------------------


def routes() -> dict[str, str]:
    """Return the networks that this host has routes to, except default routes, with a description of each route."""
    found: dict[str, str] = {}
    for version in ("-4", "-6"):
        output = program.run(["ip", "-json", version, "route", "show", "table", "all"]).stdout
        found |= parse_routes(output)
    return found


def parse_routes(text: str) -> dict[str, str]:
    """Return the networks and descriptions of the routes that ``ip -json route`` printed."""
    found: dict[str, str] = {}
    for route in json.loads(text or "[]"):
        target = route.get("dst", "default")
        if target == "default" or route.get("type", "unicast") != "unicast":
            continue
        if not addresses.is_default_route(ipaddress.ip_network(target, strict=False)):
            found[target] = f"route of {route['dev']}" if "dev" in route else "route of this host"
    return found


def choose_subnets(
    profile: Mapping[str, Any], previous: Mapping[str, Any] | None, claimed: Iterable[Network]
) -> dict[str, str]:
    """Return a free subnet of each family, preferably those of ``previous`` (network.yml). ``claimed`` are the
    networks of all environments on this machine.

    If the profile has the default pool, the next pool of configs/node_pools.yml is used when that is full. Raises
    DevenvError subnet_none_free.
    """
    used = routes()
    for network in claimed:
        used |= dict.fromkeys(network.subnets, f"environment {network.environment}")
    preferred = dict((previous or {}).get("subnets", {}))
    taken = [ipaddress.ip_network(subnet, strict=False) for subnet in used]
    if preferred and not any(
        addresses.overlap(ipaddress.ip_network(subnet), other) for subnet in preferred.values() for other in taken
    ):
        return preferred
    return {family: _choose(profile["network"], family, used) for family in profile["families"]}


def _choose(pools: AddressPools, family: str, used: Mapping[str, str]) -> str:
    failures = []
    for pool in node_pools(pools, family):
        try:
            return addresses.choose({family: pool}, used, [family], addresses.prefixes(pools))[family]
        except DevenvError as error:
            failures.append(error)
    message = "; ".join(error.message for error in failures)
    raise DevenvError(failures[0].reason.id, message, where=failures[0].where)


def is_in_pool(pools: AddressPools, family: str, subnet: str) -> bool:
    """Return whether ``subnet`` is in the profile's pool."""
    return addresses.overlap(ipaddress.ip_network(subnet), ipaddress.ip_network(pools["node_pools"][family]))


def node_pools(pools: AddressPools, family: str) -> list[str]:
    """Return the pools to try in order: the profile's; if that is the default one, also the alternatives that contain a
    subnet and overlap neither pods nor Services.
    """
    first = pools["node_pools"][family]
    if first != data.read("defaults")["network"]["node_pools"][family]:
        return [first]
    others = [ipaddress.ip_network(pool[family]) for pool in (pools["pods"], pools["services"])]
    alternatives = [ipaddress.ip_network(text) for text in data.read("node_pools")[family]]
    length = addresses.prefixes(pools)[family]
    fitting = [net for net in alternatives if net.prefixlen <= length and not any(net.overlaps(o) for o in others)]
    return [first, *map(str, fitting)]


# --- bridge and nft table ---------------------------------------------------------------------------------------------


def bridge_mac(plan: Mapping[str, Any]) -> str:
    """Return the bridge's MAC, derived from its subnet. Without one it takes its lowest port's, which changes."""
    network = ipaddress.ip_network(next(iter(plan["subnets"].values()))).network_address
    octets = network.packed[:4] if network.version == 4 else network.packed[4:8]
    return ":".join(f"{octet:02x}" for octet in (0x52, 0x55, *octets))


def set_up(environment: str, state: Path, plan: Mapping[str, Any], *, serve_dhcp: bool) -> bool:
    """Set up bridge, nft table, docker's chain for rules of others and, where nodes need it, DHCP. Return whether
    anything was missing.
    """
    changed = _set_up_bridge(plan)
    changed |= _set_up_table(network_name(environment), plan["bridge"], plan["subnets"])
    changed |= firewall.adjust(environment, plan["bridge"], plan["subnets"], several=len(plan["nodes"]) > 1)
    if serve_dhcp:
        changed |= dhcp.serve(environment, state, plan)
    return changed


def _create_bridge(bridge: str, mac: str) -> None:
    """Create the bridge. It ignores router advertisements, as a node may send some."""
    program.run(["ip", "link", "add", "name", bridge, "address", mac, "type", "bridge"])
    for name in ("accept_dad", "accept_ra", "autoconf"):
        setting = Path("/proc/sys/net/ipv6/conf", bridge, name)
        if setting.exists():
            setting.write_text("0")


def _set_up_bridge(plan: Mapping[str, Any]) -> bool:
    """Set up the bridge, with its MAC and gateway addresses. It may be missing: some programs delete it with its last
    node.
    """
    bridge, mac = plan["bridge"], bridge_mac(plan)
    if not Path("/sys/class/net", bridge).exists():
        _create_bridge(bridge, mac)
    link = json.loads(program.run(["ip", "-json", "address", "show", "dev", bridge]).stdout)[0]
    desired = {f"{plan['gateways'][family]}/{subnet.split('/')[1]}" for family, subnet in plan["subnets"].items()}
    commands = [] if link["address"] == mac else [["link", "set", "dev", bridge, "address", mac]]
    if "UP" not in link["flags"]:
        commands.append(["link", "set", "dev", bridge, "up"])
    for address in sorted(desired.difference(_local(link))):
        nodad = ["nodad"] if ":" in address else []
        commands.append(["address", "replace", address, "dev", bridge, *nodad])
    for command in commands:
        program.run(["ip", *command])
    return bool(commands)


def _set_up_table(name: str, bridge: str, subnets: Mapping[str, str]) -> bool:
    """Create the nft table, or replace one whose rules differ. Return whether that was necessary."""
    desired = nft_table(name, bridge, subnets)
    listed = program.run(["nft", "list", "table", "inet", name], check=False)
    if listed.code == 0 and _rules(listed.stdout) == _rules(desired):
        return False
    # Adding before deleting makes the deletion valid if there is no table.
    program.run(["nft", "--file", "-"], stdin=f"add table inet {name}\ndelete table inet {name}\n{desired}")
    return True


def _rules(table: str) -> list[str]:
    """Return the lines of a table's text without the chain's header, whose form depends on the version of nft."""
    return [line.strip() for line in table.splitlines() if line.strip() and "hook postrouting" not in line]


def fingerprint(environment: str, plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the actual state of what `set_up` sets up, and firewalls in its way, as texts to compare later."""
    output = program.run(["ip", "-json", "address", "show", "dev", plan["bridge"]], check=False).stdout
    links, rules = json.loads(output or "[]"), firewall.ruleset()
    kinds = firewall.between(plan["subnets"], plan["bridge"]) if len(plan["nodes"]) > 1 else []
    chains = firewall.chains(rules) if kinds else []
    return {
        "bridge": json.dumps([[link["address"], link["flags"], _local(link)] for link in links], sort_keys=True),
        "nft table": firewall.table_of(rules, network_name(environment)),
        "firewall": "; ".join(str(each) for kind in kinds for each in firewall.obstacles(chains, kind)),
        "DHCP": " ".join(sorted(dhcp.servers(environment).values())),
    }


def _local(link: Mapping[str, Any]) -> list[str]:
    return sorted(f"{row['local']}/{row['prefixlen']}" for row in link["addr_info"])


def nft_table(table: str, bridge: str, subnets: Mapping[str, str]) -> str:
    """Return the one nft table of an environment: traffic that leaves the bridge gets the host's address."""
    rules = "".join(
        f'    {"ip" if family == "ipv4" else "ip6"} saddr {subnet} oifname != "{bridge}" masquerade\n'
        for family, subnet in subnets.items()
    )
    return f"""table inet {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
{rules}  }}
}}
"""


def remove(environment: str, bridges: Iterable[str]) -> list[str]:
    """Remove bridges and firewall rules of an environment; return the names of what is worth a note."""
    removed = firewall.restore(environment)
    for bridge in bridges:
        if program.run(["ip", "link", "show", "dev", bridge], check=False).code == 0:
            program.run(["ip", "link", "delete", "dev", bridge])
    table = network_name(environment)
    if program.run(["nft", "list", "table", "inet", table], check=False).code != 0:
        return removed
    program.run(["nft", "delete", "table", "inet", table])
    return [*removed, f"nft table {table}"]
