"""Report what a node is: its cgroups, capabilities, programs, addresses, room. Reads only."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files, program

CAP_SYS_RESOURCE = 24  # linux/capability.h
VERSION_CACHE = "/run/devenv/versions.json"
PROGRAMS = {
    "kubelet": ["kubelet", "--version"],
    "kubeadm": ["kubeadm", "version", "-o", "short"],
    "containerd": ["containerd", "--version"],
    "runc": ["runc", "--version"],
}


def cgroup(mounts: str, is_v2_host: bool) -> dict[str, Any]:
    """Return ``{version, layout, driver}`` from the text of /proc/self/mounts and whether /sys/fs/cgroup is cgroup2.

    layout: unified (v2), hybrid (v1 controllers, systemd's own hierarchy in v2), legacy (v1). driver: what kubelet
    and runc should use. Inside a container on v1, systemd owns no controller, so its driver does not work: cgroupfs.
    """
    if is_v2_host:
        return {"version": 2, "layout": "unified", "driver": "systemd"}
    types = {fields[1]: fields[2] for fields in (line.split() for line in mounts.splitlines()) if len(fields) > 2}
    hybrid = types.get("/sys/fs/cgroup/unified") == "cgroup2" or types.get("/sys/fs/cgroup/systemd") == "cgroup2"
    return {"version": 1, "layout": "hybrid" if hybrid else "legacy", "driver": "cgroupfs"}


def read_cgroup(root: str = "/") -> dict[str, Any]:
    """Return `cgroup` of this node; without systemd as PID 1 there is no systemd driver."""
    unified = os.path.exists(files.under(root, "/sys/fs/cgroup/cgroup.controllers"))
    found = cgroup(files.read_text(files.under(root, "/proc/self/mounts")), unified)
    if not os.path.isdir(files.under(root, "/run/systemd/system")):
        found["driver"] = "cgroupfs"
    return found


def capabilities(status: str) -> dict[str, Any]:
    """Return ``{effective, sys_resource}`` from the text of /proc/PID/status (proc(5))."""
    match = re.search(r"^CapBnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
    mask = int(match.group(1), 16) if match else 0
    return {"bounding": format(mask, "x"), "sys_resource": bool(mask >> CAP_SYS_RESOURCE & 1)}


def parse_version(text: str) -> str:
    """Return the first dotted number of a program's answer ("runc version 1.1.5+ds1" -> "1.1.5+ds1"), "" when there is
    none.
    """
    match = re.search(r"\bv?(\d+\.\d+[^\s,]*)", text)
    return match.group(1) if match else ""


def _stamp(path: str) -> list[int]:
    info = os.stat(path)
    return [info.st_ino, info.st_size, info.st_mtime_ns]


def versions(
    keep: bool, cache: str = VERSION_CACHE, programs: Mapping[str, Sequence[str]] | None = None
) -> dict[str, str]:
    """Return the versions of ``programs`` (default: PROGRAMS), "" for one that is not there.

    Asking costs 0.1 s a program, so the answers are kept (``keep``) with the file's identity in /run.
    """
    programs = PROGRAMS if programs is None else programs
    known = files.read_json(cache)
    out: dict[str, str] = {}
    asked: dict[str, list[str]] = {}
    stamps: dict[str, Any] = {}
    for name, argv in programs.items():
        path = shutil.which(argv[0])
        if path is None:
            out[name] = ""
            continue
        stamps[name] = _stamp(path)
        if known.get(name, {}).get("stamp") == stamps[name]:
            out[name] = str(known[name]["version"])
            continue
        asked[name] = [path, *argv[1:]]
    for name, result in program.run_all(asked, timeout=20).items():
        out[name] = parse_version(result.output) if result.code != program.TIMED_OUT else ""
    if asked and keep:
        files.write_json(cache, {name: {"stamp": stamps[name], "version": out[name]} for name in stamps})
    return out


def _ip(*words: str) -> list[dict[str, Any]]:
    rows = program.run(["ip", "-j", *words]).json([])
    return [row for row in rows if isinstance(row, dict)]


def addresses(links: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``[{interface, family, address, prefix, scope}]`` of ``ip -j addr``, without loopback and pods'
    interfaces.
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


def routes() -> list[dict[str, Any]]:
    """Return ``[{family, destination, via, interface}]`` of the main tables, without those to pods of this node and the
    kernel's own.
    """
    return [
        {
            "family": family,
            "destination": row.get("dst", ""),
            "via": row.get("gateway", ""),
            "interface": row.get("dev", ""),
        }
        for family, flag in (("ipv4", "-4"), ("ipv6", "-6"))
        for row in _ip(flag, "route", "show")
        if row.get("gateway") or row.get("dst") == "default"
    ]


def memory(meminfo: str) -> dict[str, int]:
    """Return ``{total, available}`` in bytes from the text of /proc/meminfo."""
    values = {name: int(number) * 1024 for name, number in re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE)}
    return {"total": values.get("MemTotal", 0), "available": values.get("MemAvailable", 0)}


def disk(paths: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return ``{path: {total, free}}`` in bytes, of the paths that are there."""
    out = {}
    for path in paths:
        try:
            info = os.statvfs(path)
        except OSError:
            continue
        out[path] = {"total": info.f_frsize * info.f_blocks, "free": info.f_frsize * info.f_bavail}
    return out


def facts(keep: bool, root: str = "/") -> dict[str, Any]:
    """Return all of the above of this machine."""
    return {
        "hostname": os.uname().nodename,
        "kernel": os.uname().release,
        "boot_id": files.read_text("/proc/sys/kernel/random/boot_id").strip(),
        "cgroup": read_cgroup(root),
        "capabilities": capabilities(files.read_text("/proc/self/status")),
        "versions": versions(keep),
        "addresses": addresses(_ip("addr", "show")),
        "routes": routes(),
        "memory": memory(files.read_text("/proc/meminfo")),
        "disk": disk(("/", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd")),
    }
