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
from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses

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


def routes() -> list[str]:
    """Return the subnets of this host's routes, except the default routes."""
    targets = []
    for version in ("-4", "-6"):
        output = program.run(["ip", "-json", version, "route", "show", "table", "all"]).stdout
        for route in json.loads(output or "[]"):
            target = route.get("dst", "default")
            if target != "default" and route.get("type", "unicast") == "unicast":
                targets.append(target)
    return targets


def choose_subnets(
    profile: Mapping[str, Any], previous: Mapping[str, Any] | None, claimed: Iterable[Network]
) -> dict[str, str]:
    """Return a free subnet of each family, preferably those of ``previous`` (network.yml). ``claimed`` are the
    networks of all environments on this machine.
    """
    used = [*(subnet for network in claimed for subnet in network.subnets), *routes()]
    preferred = dict((previous or {}).get("subnets", {}))
    taken = [ipaddress.ip_network(subnet, strict=False) for subnet in used]
    if preferred and not any(
        addresses.overlap(ipaddress.ip_network(subnet), other) for subnet in preferred.values() for other in taken
    ):
        return preferred
    lengths = addresses.prefixes(profile["network"])
    return addresses.choose(profile["network"]["node_pools"], used, profile["families"], lengths)


# --- bridge and nft table ---------------------------------------------------------------------------------------------


def bridge_mac(plan: Mapping[str, Any]) -> str:
    """Return the bridge's MAC, derived from its subnet. Without one it takes its lowest port's, which changes."""
    network = ipaddress.ip_network(next(iter(plan["subnets"].values()))).network_address
    octets = network.packed[:4] if network.version == 4 else network.packed[4:8]
    return ":".join(f"{octet:02x}" for octet in (0x52, 0x55, *octets))


def set_up(environment: str, state: Path, plan: Mapping[str, Any], *, serve_dhcp: bool) -> bool:
    """Set up bridge, nft table and, where nodes need it, DHCP. Return whether anything was missing."""
    changed = _set_up_bridge(plan)
    changed |= _set_up_table(network_name(environment), plan["bridge"], plan["subnets"])
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


def fingerprint(environment: str, bridge: str) -> dict[str, str]:
    """Return the actual state of what `set_up` sets up, as texts to compare later."""
    output = program.run(["ip", "-json", "address", "show", "dev", bridge], check=False).stdout
    links = json.loads(output or "[]")
    return {
        "bridge": json.dumps([[link["address"], link["flags"], _local(link)] for link in links], sort_keys=True),
        "nft table": program.run(["nft", "list", "table", "inet", network_name(environment)], check=False).stdout,
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
    """Remove bridges and nft table of an environment; return the names of what is worth a note."""
    for bridge in bridges:
        if program.run(["ip", "link", "show", "dev", bridge], check=False).code == 0:
            program.run(["ip", "link", "delete", "dev", bridge])
    table = network_name(environment)
    if program.run(["nft", "list", "table", "inet", table], check=False).code != 0:
        return []
    program.run(["nft", "delete", "table", "inet", table])
    return [f"nft table {table}"]
