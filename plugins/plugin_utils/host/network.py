"""The network of an environment on this host: its claim of a subnet, its bridge, its nft table, and DHCP on it.

Names and subnets are machine-wide: whoever chooses holds the allocator lock.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
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
    """Name of the environment's network and of its nft table."""
    return f"devenv-{environment}"


def family(subnet: str) -> str:
    """``ipv4`` or ``ipv6``, of a subnet or of an address with prefix length."""
    return f"ipv{ipaddress.ip_interface(subnet).version}"


# --- subnets ----------------------------------------------------------------------------------------------------------


def routes() -> list[str]:
    """Subnets of every route of this host, the default routes left out."""
    targets = []
    for version in ("-4", "-6"):
        shown = program.run(["ip", "-json", version, "route", "show", "table", "all"]).stdout
        for route in json.loads(shown or "[]"):
            target = route.get("dst", "default")
            if target != "default" and route.get("type", "unicast") == "unicast":
                targets.append(target)
    return targets


def choose_subnets(
    resolved: Mapping[str, Any], previous: Mapping[str, Any] | None, claimed: Iterable[Network]
) -> dict[str, str]:
    """Return a free subnet of each family, by preference those of ``previous`` (network.yml). ``claimed`` are the
    networks of all environments on this machine.
    """
    used = [*(subnet for network in claimed for subnet in network.subnets), *routes()]
    wanted = dict((previous or {}).get("subnets", {}))
    if wanted and not any(_overlaps(subnet, used) for subnet in wanted.values()):
        return wanted
    lengths = addresses.prefixes(resolved["network"])
    return addresses.choose(resolved["network"]["node_pools"], used, resolved["families"], lengths)


def _overlaps(subnet: str, used: Sequence[str]) -> bool:
    net = ipaddress.ip_network(subnet)
    others = (ipaddress.ip_network(other, strict=False) for other in used)
    return any(other.version == net.version and net.overlaps(other) for other in others)


# --- bridge and nft table ---------------------------------------------------------------------------------------------


def bridge_mac(plan: Mapping[str, Any]) -> str:
    """Return the bridge's MAC, derived from the subnet. Without one a bridge takes its lowest port's, which changes."""
    subnet = next(iter(plan["subnets"].values()))
    tail = ipaddress.ip_network(subnet).network_address.packed[:4] if ":" not in subnet else b""
    packed = tail or ipaddress.ip_network(subnet).network_address.packed[4:8]
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x55, *packed))


def _make_bridge(bridge: str, mac: str) -> None:
    """Make the bridge. It ignores router advertisements: a node may send some."""
    program.run(["ip", "link", "add", "name", bridge, "address", mac, "type", "bridge"])
    for name in ("accept_dad", "accept_ra", "autoconf"):
        setting = Path("/proc/sys/net/ipv6/conf", bridge, name)
        if setting.exists():
            setting.write_text("0")


def set_up(environment: str, state: Path, plan: Mapping[str, Any], *, serve_dhcp: bool) -> bool:
    """Set up bridge, nft table and, where nodes need it, DHCP. Return whether anything was missing."""
    changed = _set_up_links(environment, plan)
    if serve_dhcp:
        changed |= dhcp.serve(environment, state, plan)
    return changed


def _set_up_links(environment: str, plan: Mapping[str, Any]) -> bool:
    """Set up the bridge, with its MAC and gateway addresses, and the nft table. The bridge may be gone: some programs
    drop it with its last node.
    """
    bridge = plan["bridge"]
    if not Path("/sys/class/net", bridge).exists():
        _make_bridge(bridge, bridge_mac(plan))
    shown = json.loads(program.run(["ip", "-json", "address", "show", "dev", bridge]).stdout)[0]
    seen = set(_local(shown))
    wanted = {f"{plan['gateways'][family]}/{subnet.split('/')[1]}" for family, subnet in plan["subnets"].items()}
    changed = False
    if shown["address"] != bridge_mac(plan):
        program.run(["ip", "link", "set", "dev", bridge, "address", bridge_mac(plan)])
        changed = True
    if "UP" not in shown["flags"]:
        program.run(["ip", "link", "set", "dev", bridge, "up"])
        changed = True
    for address in sorted(wanted - seen):
        nodad = ["nodad"] if ":" in address else []
        program.run(["ip", "address", "replace", address, "dev", bridge, *nodad])
        changed = True
    return _set_up_table(network_name(environment), bridge, plan["subnets"]) or changed


def _set_up_table(name: str, bridge: str, subnets: Mapping[str, str]) -> bool:
    """Create the nft table, or replace one whose rules differ. Return whether that was necessary."""
    wanted = nft_table(name, bridge, subnets)
    listed = program.run(["nft", "list", "table", "inet", name], check=False)
    if listed.code == 0 and _rules(listed.stdout) == _rules(wanted):
        return False
    # Adding before deleting makes the deletion valid when there is no table.
    program.run(["nft", "--file", "-"], stdin=f"add table inet {name}\ndelete table inet {name}\n{wanted}")
    return True


def _rules(table: str) -> list[str]:
    """Return the lines of a table's text without the chain's header, which nft prints in the words of its version."""
    return [line.strip() for line in table.splitlines() if line.strip() and "hook postrouting" not in line]


def fingerprint(environment: str, bridge: str) -> dict[str, str]:
    """Return what `set_up` looks after, as texts to compare with those of another time."""
    shown = program.run(["ip", "-json", "address", "show", "dev", bridge], check=False).stdout
    links = json.loads(shown or "[]")
    return {
        "bridge": json.dumps([[link["address"], link["flags"], _local(link)] for link in links], sort_keys=True),
        "nft table": program.run(["nft", "list", "table", "inet", network_name(environment)], check=False).stdout,
        "DHCP": " ".join(sorted(dhcp.servers(environment).values())),
    }


def _local(link: Mapping[str, Any]) -> list[str]:
    return sorted(f"{row['local']}/{row['prefixlen']}" for row in link["addr_info"])


def nft_table(table: str, bridge: str, subnets: Mapping[str, str]) -> str:
    """The one nft table of an environment: what leaves the bridge goes out under the host's address."""
    rules = [
        f'    {"ip" if family == "ipv4" else "ip6"} saddr {subnet} oifname != "{bridge}" masquerade'
        for family, subnet in subnets.items()
    ]
    return "\n".join(
        [
            f"table inet {table} {{",
            "  chain postrouting {",
            "    type nat hook postrouting priority srcnat; policy accept;",
            *rules,
            "  }",
            "}",
            "",
        ]
    )


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
