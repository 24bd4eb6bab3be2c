"""Probes of this host for preflight and `devenv doctor`, and the host settings that nodes change."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program as process

SYSCTLS = Path("/proc/sys")

# A privileged node writes these host-wide: systemd when it starts (fs), and kubelet (the others, see its option
# --protect-kernel-defaults).
HOST_SYSCTLS = (
    "fs.file-max",
    "fs.nr_open",
    "kernel.keys.root_maxbytes",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "kernel.panic_on_oops",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
)

# podman's network program enables these whenever a container joins a bridge.
FORWARDING_SYSCTLS = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")

# For nodes that request their addresses.
DHCP_PROGRAMS = {"dnsmasq": "dnsmasq-base"}


@dataclass(frozen=True)
class Probe:
    """One check of this host: ``seen`` against ``needed``, and what to type if it is not enough.

    ``required`` False: `devenv doctor` shows it, but it never stops a run.
    """

    name: str
    ok: bool
    seen: str
    needed: str
    fix: str
    reason: str
    required: bool = True


def sysctl_read(name: str, root: Path = SYSCTLS) -> str:
    """Return the value of a sysctl, or an empty string if this kernel does not have it."""
    try:
        return (root / name.replace(".", "/")).read_text().strip()
    except OSError:
        return ""


def _restore(values: Mapping[str, str], root: Path) -> list[str]:
    """Set sysctls that differ from ``values``; return their names."""
    changed = [name for name, value in values.items() if value and sysctl_read(name, root) != value]
    for name in changed:
        (root / name.replace(".", "/")).write_text(values[name])
    return changed


def record_sysctls(record: Path, root: Path = SYSCTLS) -> None:
    """Record the host's values before the first node is created. An existing record is older, so it stays."""
    if not record.exists():
        files.write(record, json.dumps({name: sysctl_read(name, root) for name in HOST_SYSCTLS}))


def restore_sysctls(record: Path, root: Path = SYSCTLS) -> list[str]:
    """Restore the recorded values after the last node; return the names of those that differed."""
    if not record.exists():
        return []
    restored = _restore(json.loads(record.read_text()), root)
    record.unlink()
    return restored


@contextlib.contextmanager
def unchanged(names: Iterable[str], root: Path = SYSCTLS) -> Iterator[None]:
    """Restore these settings after the body."""
    before = {name: sysctl_read(name, root) for name in names}
    try:
        yield
    finally:
        _restore(before, root)


def available_memory() -> int:
    """Return the bytes that new programs can use without swapping (MemAvailable)."""
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    return int(rows["MemAvailable"].split()[0]) * 1024


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB"


def program_probes(
    programs: Mapping[str, str], which: Callable[[str], str | None] = shutil.which, *, required: bool = True
) -> list[Probe]:
    """Return one probe per program; ``programs`` maps a program to its Debian package."""
    probes = []
    for name, package in programs.items():
        path, fix = which(name), f"apt-get install -y --no-install-recommends {package}"
        shown = path or "not found"
        probes.append(Probe(f"program {name}", bool(path), shown, "on PATH", fix, "program_missing", required))
    return probes


def kernel_probes() -> list[Probe]:
    """Check the kernel features that a containerised node needs."""
    overlay = "overlay" in Path("/proc/filesystems").read_text().split()
    if not overlay and shutil.which("modprobe"):
        # A dry run is enough: podman loads the module when it needs it.
        overlay = process.run(["modprobe", "--dry-run", "overlay"], check=False).code == 0
    rows = [row.split() for row in Path("/proc/cgroups").read_text().splitlines()[1:]]
    enabled, required = {row[0] for row in rows if row[3] == "1"}, {"cpu", "memory", "pids"}
    seen, needed, fix = " ".join(sorted(enabled)), " ".join(sorted(required)), "boot with these controllers enabled"
    reason, has_overlay = "kernel_feature_missing", "yes" if overlay else "no"
    return [
        Probe("kernel overlay", overlay, has_overlay, "overlay filesystem", "modprobe overlay", reason),
        Probe("cgroup controllers", required <= enabled, seen, needed, fix, reason),
    ]


def ipv6_probe(root: Path = SYSCTLS, *, required: bool = True) -> Probe:
    """Check that links of this host can have IPv6 addresses. Links of nodes are new, so the default counts as well."""
    names = ("net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6")
    seen = {name: sysctl_read(name, root) for name in names}
    absent = not any(seen.values())
    off = [name for name, value in seen.items() if value == "1"]
    seen_text = "not in this kernel" if absent else f"switched off by {' and '.join(off)}" if off else "yes"
    fix = "boot without ipv6.disable=1" if absent else f"sysctl -w {' '.join(f'{name}=0' for name in off or names)}"
    return Probe("IPv6", not absent and not off, seen_text, "switched on", fix, "ipv6_disabled", required)


def memory_probe(memory: int) -> Probe:
    """Check that ``memory`` bytes are available for nodes."""
    free, fix = available_memory(), "stop other programs or choose a smaller profile"
    return Probe("memory", free >= memory, f"{_gib(free)} available", _gib(memory), fix, "memory_short")


def size_probe(node: str, cpus: int, memory: int, proc: Path = Path("/proc")) -> Probe:
    """Check that this host has ``cpus`` and ``memory`` (0: any) for one node."""
    rows = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
    most_cpus, most = os.cpu_count() or 1, int(rows["MemTotal"].split()[0]) * 1024
    fix = f"set nodes.{node}.cpus to at most {most_cpus} and nodes.{node}.memory to at most {most >> 20}MiB"
    needed = ", ".join([f"{cpus} CPUs"] * bool(cpus) + [_gib(memory)] * bool(memory))
    ok = cpus <= most_cpus and memory <= most
    return Probe(f"size of {node}", ok, f"this host has {most_cpus} CPUs, {_gib(most)}", needed, fix, "node_too_large")


def disk_probe(disk: int, folder: Path) -> Probe:
    """Check that ``disk`` bytes are free on the filesystem where ``folder`` is or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free, fix = shutil.disk_usage(existing).free, "free some space; devenv prune removes caches"
    return Probe(f"disk {folder}", free >= disk, f"{_gib(free)} free", _gib(disk), fix, "disk_short")


def filesystem_probe(folder: Path, inodes: int = 0) -> Probe:
    """Check that programs can be written to ``folder`` and run from there, and that ``inodes`` are free."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    status = os.statvfs(existing)
    troubles = []
    if not os.access(existing, os.W_OK):
        troubles.append("read-only" if status.f_flag & os.ST_RDONLY else "not writable")
    if status.f_flag & os.ST_NOEXEC:
        troubles.append("mounted with noexec")
    # Some filesystems have no fixed number of inodes and report none.
    if status.f_files and status.f_favail < inodes:
        troubles.append(f"{status.f_favail} inodes free")
    needed = f"writable, programs run from it, {inodes} inodes free" if inodes else "writable, programs run from it"
    fix = f"choose a directory on another filesystem for {folder}"
    return Probe(f"filesystem {folder}", not troubles, ", ".join(troubles) or "ok", needed, fix, "folder_unusable")


def _inotify_in_use(proc: Path) -> int:
    """Return the open inotify instances of this user, root. Those in containers count against the same limit."""
    used = 0
    for folder in proc.glob("[0-9]*/fd"):
        try:
            if folder.parent.stat().st_uid != os.geteuid():
                continue
            used += sum(os.readlink(entry.path) == "anon_inode:inotify" for entry in os.scandir(folder))
        except OSError:
            continue
    return used


def inotify_probe(needed: int, root: Path = SYSCTLS, proc: Path = Path("/proc")) -> Probe:
    """Check that ``needed`` inotify instances are free. Without them containerd and kubelet start but do not work."""
    limit = int(sysctl_read("fs.inotify.max_user_instances", root) or 0)
    free, fix = limit - _inotify_in_use(proc), "devenv doctor --fix, or sysctl -w fs.inotify.max_user_instances=512"
    seen = f"{max(free, 0)} of {limit} free"
    return Probe("inotify instances", free >= needed, seen, f"{needed} free", fix, "inotify_short")


# Not needed for a first cluster: (name, minimum, purpose).
ADVICE = (
    ("fs.inotify.max_user_watches", 524288, "for many nodes (doctor --fix sets it)"),
    ("fs.inotify.max_user_instances", 512, "for many nodes (doctor --fix sets it)"),
    ("net.ipv4.ip_forward", 1, "if nodes are to reach networks beyond this host"),
    ("net.ipv6.conf.all.forwarding", 1, "if nodes are to reach networks beyond this host"),
)


def advice_probes() -> list[Probe]:
    """Check kernel settings that limit larger environments; the fix is the line to type, `up` sets none of them."""
    probes = []
    for name, minimum, purpose in ADVICE:
        seen = sysctl_read(name)
        ok, fix = seen.isdigit() and int(seen) >= minimum, f"sysctl -w {name}={minimum}"
        probes.append(Probe(name, ok, seen or "none", f"{minimum} {purpose}", fix, "kernel_feature_missing", False))
    return probes


def root_probe() -> Probe:
    """Check for root, which nodes, networks and mounts need."""
    user, fix = os.geteuid(), "run it as root (sudo -E ...)"
    return Probe("root", user == 0, f"user id {user}", "user id 0", fix, "root_needed")
