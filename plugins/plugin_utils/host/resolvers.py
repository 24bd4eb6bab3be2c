"""The name servers of this host that nodes can use."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe

FILE = Path("/etc/resolv.conf")
# The servers behind systemd-resolved, which listens on a loopback address only.
UPSTREAM = Path("/run/systemd/resolve/resolv.conf")
_OTHER_LINES = ("search", "domain", "options", "sortlist")


def for_nodes(file: Path = FILE, upstream: Path = UPSTREAM) -> str:
    """Return the content of a node's resolv.conf: that of this host, without servers that only this host reaches.

    Without any server left, names outside the cluster fail at once: no other server is invented.
    """
    lines = _lines(file)
    servers = _servers(lines) or _servers(_lines(upstream))
    others = [line for line in lines if line.split()[0] in _OTHER_LINES]
    return "".join(f"{line}\n" for line in [*(f"nameserver {server}" for server in servers), *others])


def probe(file: Path = FILE, upstream: Path = UPSTREAM) -> Probe:
    """Check that nodes can use a name server of this host."""
    given = [words[1] for line in _lines(file) if (words := line.split())[0] == "nameserver" and len(words) > 1]
    servers = _servers(_lines(file)) or _servers(_lines(upstream))
    seen = ", ".join(servers) or f"{file} has " + (f"only {', '.join(given)}" if given else "none")
    needed = "one that nodes reach, if they are to resolve names outside the cluster"
    fix = f"add a nameserver that is not a loopback address to {file}"
    return Probe("name servers", bool(servers), seen, needed, fix, "kernel_feature_missing", required=False)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] not in "#;"]


def _servers(lines: list[str]) -> list[str]:
    """Return the name servers that other machines can reach, too."""
    words = [line.split() for line in lines]
    return [row[1] for row in words if row[0] == "nameserver" and len(row) > 1 and _is_reachable(row[1])]


def _is_reachable(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return not (mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified or mapped.is_multicast)
