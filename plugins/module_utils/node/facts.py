"""Report the properties of a node that the stages depend on: cgroup driver, size, addresses, ... Reads only."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files, program

CAP_SYS_RESOURCE = 24  # linux/capability.h


def cgroup(root: str = "/") -> dict[str, Any]:
    """Return ``{version, driver}``: the cgroup version, and the driver that kubelet and runc should use.

    The driver systemd needs systemd as PID 1 and cgroup v2: in a container with v1, systemd owns no controller.
    """
    is_v2 = os.path.exists(files.under(root, "/sys/fs/cgroup/cgroup.controllers"))
    has_systemd = os.path.isdir(files.under(root, "/run/systemd/system"))
    return {"version": 2 if is_v2 else 1, "driver": "systemd" if is_v2 and has_systemd else "cgroupfs"}


def capabilities(status: str) -> dict[str, bool]:
    """Return ``{sys_resource}`` from the text of /proc/PID/status (proc(5))."""
    match = re.search(r"^CapBnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
    mask = int(match.group(1), 16) if match else 0
    return {"sys_resource": bool(mask >> CAP_SYS_RESOURCE & 1)}


def capacity(root: str = "/") -> dict[str, int]:
    """Return ``{cpus, memory}`` as kubelet sees them: in a container, those of its host. Memory is in bytes."""
    match = re.search(r"^MemTotal:\s*([0-9]+) kB$", files.read_text(files.under(root, "/proc/meminfo")), re.MULTILINE)
    return {"cpus": os.cpu_count() or 1, "memory": int(match.group(1)) * 1024 if match else 0}


def addresses(links: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``[{interface, family, address, prefix, scope}]`` of ``ip -j addr``, without loopback and the interfaces
    of pods.
    """
    return [
        {
            "interface": link["ifname"],
            "family": "ipv6" if entry["family"] == "inet6" else "ipv4",
            "address": entry["local"],
            "prefix": entry["prefixlen"],
            "scope": entry.get("scope", ""),
        }
        for link in links
        if link.get("ifname", "lo") != "lo" and not str(link.get("ifname")).startswith("veth")
        for entry in link.get("addr_info", [])
        if "local" in entry
    ]


def facts() -> dict[str, Any]:
    """Return all of the above for this machine."""
    links = program.run(["ip", "-j", "addr", "show"]).json([])
    return {
        "cgroup": cgroup(),
        "capacity": capacity(),
        "capabilities": capabilities(files.read_text("/proc/self/status")),
        "addresses": addresses([link for link in links if isinstance(link, dict)]),
    }
