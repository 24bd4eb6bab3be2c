"""DHCP of an environment: one dnsmasq on its bridge that gives every node its address in the network plan.

The process outlives the run that started it, so it has neither the run's marker nor its pipes. A variable in its
environment identifies it in /proc, so that it can be stopped when its folder is lost. Configuration format: dnsmasq(8).
"""

from __future__ import annotations

import hashlib
import ipaddress
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, processes, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.net import bracketed

PROGRAM = "dnsmasq"
PACKAGE = "dnsmasq-base"
# In the environment of the process: "<environment> <index of the bridge>-<digest of the configuration>".
MARKER = "DEVENV_DHCP"
# Seconds that nodes keep the gateway of a router advertisement: the maximum of RFC 4861.
ROUTER_LIFETIME = 9000


def folder_of(state: Path) -> Path:
    """Return the folder of configuration, leases, process id and log of an environment's DHCP."""
    return state / "dhcp"


def configuration(plan: Mapping[str, Any], folder: Path) -> str:
    """Return dnsmasq.conf for ``plan`` (network.yml): reservations by MAC, and no address for anyone else.

    IPv6 is stateful; its gateway comes by router advertisement, since DHCPv6 has no option for it.
    """
    bridge = plan["bridge"]
    lines = [
        "# Written by devenv.",
        "port=0",
        f"interface={bridge}",
        "except-interface=lo",
        # Binds the sockets to the bridge: other servers may serve DHCP on other links of this host.
        "bind-interfaces",
        "no-resolv",
        "no-hosts",
        "dhcp-authoritative",
        f"dhcp-leasefile={folder / 'leases'}",
    ]
    for family, subnet in plan["subnets"].items():
        network = ipaddress.ip_network(subnet)
        size = network.netmask if family == "ipv4" else network.prefixlen
        lines.append(f"dhcp-range={network.network_address},static,{size},infinite")
        if family == "ipv4":
            lines.append(f"dhcp-option=option:router,{plan['gateways'][family]}")
        else:
            lines += ["enable-ra", f"ra-param={bridge},60,{ROUTER_LIFETIME}"]
    for name, node in plan["nodes"].items():
        addresses = [bracketed(address) for address in node["addresses"].values()]
        lines.append(",".join([f"dhcp-host={node['mac']}", *addresses, name]))
    return "\n".join([*lines, ""])


def servers(environment: str, proc: Path = Path("/proc")) -> dict[int, str]:
    """Return the DHCP servers of ``environment``: process id to the purpose of its start (``_purpose``)."""
    return {
        pid: words[1]
        for pid, words in processes.carrying(MARKER, lambda name: name == PROGRAM, proc)
        if len(words) == 2 and words[0] == environment
    }


def _purpose(bridge: str, content: str) -> str:
    """Return what identifies an up-to-date server: a recreated bridge has another index."""
    try:
        index = Path("/sys/class/net", bridge, "ifindex").read_text().strip()
    except OSError:
        index = "0"
    return f"{index}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def serve(environment: str, state: Path, plan: Mapping[str, Any]) -> bool:
    """Ensure that exactly one server runs, with the configuration of ``plan``. Return whether it had to be started.

    The bridge must exist with its addresses. Raises DevenvError ``dhcp_failed``.
    """
    if "ipv6" in plan["subnets"]:
        _act_as_router(plan["bridge"])
    folder = folder_of(state)
    content = configuration(plan, folder)
    purpose = _purpose(plan["bridge"], content)
    running = servers(environment)
    if list(running.values()) == [purpose]:
        return False
    _stop(running)
    config = folder / "dnsmasq.conf"
    files.write(config, content)
    path = shutil.which(PROGRAM)
    if path is None:
        raise DevenvError("program_missing", f"there is no program {PROGRAM}", advice=f"apt-get install {PACKAGE}")
    argv = [
        # Without this run's environment, so that the process does not end with the run.
        "env", "-i", f"{MARKER}={environment} {purpose}", path, f"--conf-file={config}",
        f"--pid-file={folder / 'pid'}", f"--log-facility={folder / 'log'}",
    ]  # fmt: skip
    try:
        program.run(argv, timeout=30)
    except program.ProgramFailed as failure:
        raise DevenvError("dhcp_failed", f"{PROGRAM} does not start: {failure.stderr.strip()[-400:]}") from failure
    return True


def _act_as_router(bridge: str) -> None:
    """Let the host advertise itself as a router on ``bridge`` alone: a neighbour that denies being one does not stay a
    gateway (RFC 4861, 7.2.5). The setting does not affect what the host forwards, and is removed with the bridge.
    """
    setting = Path("/proc/sys/net/ipv6/conf", bridge, "forwarding")
    if setting.exists() and setting.read_text().strip() == "0":
        setting.write_text("1")


def stop(environment: str) -> bool:
    """Stop the DHCP servers of ``environment``; return whether one was running."""
    running = servers(environment)
    _stop(running)
    return bool(running)


def _stop(pids: Iterable[int]) -> None:
    """Terminate these servers and wait for their end; they have nothing to save."""
    targets = list(filter(None, map(processes.read_process, pids)))

    def remaining(_known: object) -> list[processes.Process]:
        return [process for process in targets if processes.alive(process.pid, process.start)]

    processes.end_all(remaining, grace=5, patience=5)
