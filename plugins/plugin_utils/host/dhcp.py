"""DHCP of an environment: one dnsmasq on its bridge that gives every node the address which the plan has for it.

It is a process of this host that outlives the run that started it, so it carries neither the run's marker nor its
pipes. It is found in /proc by a variable of its own, so that it can be ended when its folder is lost.
Format of the configuration: dnsmasq(8).
"""

from __future__ import annotations

import hashlib
import ipaddress
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, processes
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program as process
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.net import bracketed

PROGRAM = "dnsmasq"
PACKAGE = "dnsmasq-base"
# In the environment of the process: "<environment> <index of the bridge>-<digest of the configuration>".
MARKER = "DEVENV_DHCP"
# Seconds that nodes keep the gateway of a router advertisement: the most that RFC 4861 allows.
ROUTER_LIFETIME = 9000


def folder_of(state: Path) -> Path:
    """Where configuration, leases, process id and log of an environment's DHCP lie."""
    return state / "dhcp"


def configuration(plan: Mapping[str, Any], folder: Path) -> str:
    """dnsmasq.conf for ``plan`` (network.yml): reservations by MAC, nobody else is given an address.

    IPv6 is stateful; its gateway comes by router advertisement, since DHCPv6 has no option for it.
    """
    bridge = plan["bridge"]
    lines = [
        "# Written by devenv.",
        "port=0",
        f"interface={bridge}",
        "except-interface=lo",
        # Binds the sockets to the bridge: others may serve DHCP on other links of this host.
        "bind-interfaces",
        "no-resolv",
        "no-hosts",
        "dhcp-authoritative",
        f"dhcp-leasefile={folder / 'leases'}",
    ]
    for family, subnet in plan["subnets"].items():
        network = ipaddress.ip_network(subnet)
        if family == "ipv4":
            lines += [
                f"dhcp-range={network.network_address},static,{network.netmask},infinite",
                f"dhcp-option=option:router,{plan['gateways'][family]}",
            ]
        else:
            lines += [
                f"dhcp-range={network.network_address},static,{network.prefixlen},infinite",
                "enable-ra",
                f"ra-param={bridge},60,{ROUTER_LIFETIME}",
            ]
    for name, node in plan["nodes"].items():
        addresses = [bracketed(address) for address in node["addresses"].values()]
        lines.append(",".join([f"dhcp-host={node['mac']}", *addresses, name]))
    return "\n".join([*lines, ""])


def servers(environment: str, proc: Path = Path("/proc")) -> dict[int, str]:
    """Processes that serve ``environment``: process id to what each was started for (``_purpose``)."""
    return {
        pid: words[1]
        for pid, words in processes.carrying(MARKER, lambda name: name == PROGRAM, proc)
        if len(words) == 2 and words[0] == environment
    }


def _purpose(bridge: str, content: str) -> str:
    """What tells a server that is right from one that is not: a bridge that was made anew has another index."""
    try:
        index = Path("/sys/class/net", bridge, "ifindex").read_text().strip()
    except OSError:
        index = "0"
    return f"{index}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def serve(environment: str, state: Path, plan: Mapping[str, Any]) -> bool:
    """Have one server that runs with the configuration of ``plan``. Return whether it had to be started.

    The bridge must be there, with its addresses. Raises DevenvError ``dhcp_failed``.
    """
    if "ipv6" in plan["subnets"]:
        _be_router(plan["bridge"])
    folder = folder_of(state)
    content = configuration(plan, folder)
    purpose = _purpose(plan["bridge"], content)
    running = servers(environment)
    if list(running.values()) == [purpose]:
        return False
    _end(running)
    config = folder / "dnsmasq.conf"
    files.write(config, content)
    program = shutil.which(PROGRAM)
    if program is None:
        raise DevenvError("program_missing", f"there is no program {PROGRAM}", advice=f"apt-get install {PACKAGE}")
    argv = [
        # Nothing of this run in its environment: it does not end with it.
        "env", "-i", f"{MARKER}={environment} {purpose}", program, f"--conf-file={config}",
        f"--pid-file={folder / 'pid'}", f"--log-facility={folder / 'log'}",
    ]  # fmt: skip
    try:
        process.run(argv, timeout=30)
    except process.ProgramFailed as failure:
        raise DevenvError("dhcp_failed", f"{PROGRAM} does not start: {failure.stderr.strip()[-400:]}") from failure
    return True


def _be_router(bridge: str) -> None:
    """Let the host say on ``bridge`` alone that it is a router: a neighbour that says it is none is no gateway for long
    (RFC 4861, 7.2.5). What the host forwards does not follow from this setting, and it goes with the bridge.
    """
    setting = Path("/proc/sys/net/ipv6/conf", bridge, "forwarding")
    if setting.exists() and setting.read_text().strip() == "0":
        setting.write_text("1")


def end(environment: str) -> bool:
    """End what serves ``environment``; return whether there was anything."""
    running = servers(environment)
    _end(running)
    return bool(running)


def _end(pids: Iterable[int]) -> None:
    """End these servers and wait until they have; they have nothing to save."""
    known = list(filter(None, map(processes.read_process, pids)))
    processes.end_all(lambda _known: [one for one in known if _is_server(one.pid)], grace=5, patience=5)


def _is_server(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether the process still works; one that ended and that nobody has asked after has no environment left."""
    try:
        return f"{MARKER}=".encode() in (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return False
