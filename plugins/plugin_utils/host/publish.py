"""Ports of this host that lead to the API of an environment's clusters, in an nft table of their own."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import net, program
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import FORWARDING_SYSCTLS, Probe, sysctl_read
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import ByFamily, Profile

API = 6443
FILE = "published"
# Port of this host to the addresses of an API.
Ports = Mapping[int, ByFamily]


def table_name(environment: str) -> str:
    """Return the table's name; a name of an environment has no underscore, so it is no other environment's."""
    return f"devenv_api_{environment}"


def ports(profile: Profile, plan: Mapping[str, Any]) -> Ports:
    """Return the profile's published ports: each leads to the virtual address or the first control plane node."""
    published: dict[int, ByFamily] = {}
    for name, cluster in profile["clusters"].items():
        port = cluster["endpoint"].get("published_port")
        if port:
            first = next(n for n in profile["nodes"] if n["cluster"] == name and n["group"] == "control_plane")
            virtual = plan["clusters"][name]["virtual"] if cluster["endpoint"]["kind"] == "virtual" else {}
            published[port] = virtual or plan["nodes"][first["name"]]["addresses"]
    return published


def table(environment: str, bridge: str, published: Ports) -> str:
    """Return the nft table: connections from other machines and containers, and from this host itself. The nodes have
    a direct way.
    """
    rules = [
        f"fib daddr type local tcp dport {port} dnat {kind} to {net.bracketed(address)}:{API}"
        for port, by_family in sorted(published.items())
        for family, address in by_family.items()
        for kind in ["ip" if family == "ipv4" else "ip6"]
    ]
    incoming = "".join(f'    iifname != "{bridge}" {_family(rule)} {rule}\n' for rule in rules)
    local = "".join(f"    {_not_loopback(rule)} {rule}\n" for rule in rules)
    return f"""table inet {table_name(environment)} {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
{incoming}  }}
  chain output {{
    type nat hook output priority -100; policy accept;
{local}  }}
}}
"""


def set_up(environment: str, folder: Path, bridge: str, published: Ports) -> bool:
    """Create, replace or remove the table. Return whether that was necessary. A file of the state directory shows that
    there is one, since most environments have none.
    """
    marker = folder / FILE
    if not published and not marker.exists():
        return False
    if published:
        marker.touch()
    changed = _converge(environment, table(environment, bridge, published) if published else "")
    if not published:
        marker.unlink()
    return changed


def _converge(environment: str, desired: str) -> bool:
    name = table_name(environment)
    listed = program.run(["nft", "list", "table", "inet", name], check=False)
    if _rules(listed.stdout if listed.code == 0 else "") == _rules(desired):
        return False
    # Adding before deleting makes the deletion valid if there is no table.
    program.run(["nft", "--file", "-"], stdin=f"add table inet {name}\ndelete table inet {name}\n{desired}")
    return True


def remove(environment: str) -> None:
    """Remove the table, if there is one."""
    _converge(environment, "")


def fingerprint(environment: str, folder: Path) -> dict[str, str]:
    """Return the actual table as text, if there is to be one."""
    return {"published ports": _listed(environment)} if (folder / FILE).exists() else {}


def _listed(environment: str) -> str:
    return program.run(["nft", "list", "table", "inet", table_name(environment)], check=False).stdout


def others(environment: str) -> dict[int, str]:
    """Return the ports that other environments on this host publish, with their names."""
    prefix = table_name("")
    names = program.run(["nft", "list", "tables"], check=False).stdout.split()
    owners = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return {port: owner for owner in owners if owner != environment for port in _ports(_listed(owner))}


def probes(environment: str, profile: Profile) -> Iterator[Probe]:
    """Yield a probe for each port that the profile publishes, and one for the forwarding that this needs."""
    chosen = [cluster["endpoint"].get("published_port") for cluster in profile["clusters"].values()]
    published = [port for port in chosen if port]
    if not published:
        return
    taken = others(environment)
    for port in published:
        user = f"environment {taken[port]}" if port in taken else "a program of this host" if _listens(port) else ""
        fix = "choose another clusters.NAME.endpoint.published_port"
        yield Probe(f"port {port}", not user, f"used by {user}" if user else "free", "free", fix, "port_taken")
    for family, name in zip(("ipv4", "ipv6"), FORWARDING_SYSCTLS, strict=True):
        if family not in profile["families"]:
            continue
        seen = sysctl_read(name)
        yield Probe(name, seen == "1", seen, "1 to publish the API", f"sysctl -w {name}=1", "kernel_feature_missing")


def _listens(port: int) -> bool:
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as tried:
        try:
            tried.bind(("", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _ports(text: str) -> list[int]:
    words = text.split()
    return [int(words[place + 1]) for place, word in enumerate(words) if word == "dport"]


def _family(rule: str) -> str:
    return "meta nfproto ipv6" if "dnat ip6" in rule else "meta nfproto ipv4"


def _not_loopback(rule: str) -> str:
    # The kernel does not route packets with a loopback address to a bridge.
    return "ip6 daddr != ::1" if "dnat ip6" in rule else "ip daddr != 127.0.0.0/8"


def _rules(text: str) -> list[str]:
    """Return the lines of a table's text without the chains' headers, whose form depends on the version of nft."""
    return [line.strip() for line in text.splitlines() if line.strip() and " hook " not in line]
