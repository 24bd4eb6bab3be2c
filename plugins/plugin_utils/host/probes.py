"""This host: what a run needs of it (preflight, doctor), and the settings that nodes change on it."""

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

# Written host-wide in a privileged node: by its systemd as it starts (fs), by kubelet (its --protect-kernel-defaults
# names them).
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

# Switched on by podman's network program whenever a container joins a bridge.
FORWARDING_SYSCTLS = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")

# For nodes that ask for their addresses.
DHCP_PROGRAMS = {"dnsmasq": "dnsmasq-base"}


@dataclass(frozen=True)
class Probe:
    """One thing looked at: ``seen`` against ``needed``, and what to type when it is not enough.

    ``required`` False: worth knowing (doctor), never a reason to stop.
    """

    name: str
    ok: bool
    seen: str
    needed: str
    fix: str
    reason: str
    required: bool = True


def sysctl_read(name: str, root: Path = Path("/proc/sys")) -> str:
    """Value of a sysctl, or an empty string where this kernel has none of that name."""
    try:
        return (root / name.replace(".", "/")).read_text().strip()
    except OSError:
        return ""


def record_sysctls(record: Path, root: Path = Path("/proc/sys")) -> None:
    """Remember the host's values before the first node is made; a record that is there already is older and right."""
    if not record.exists():
        files.write(record, json.dumps({name: sysctl_read(name, root) for name in HOST_SYSCTLS}))


def restore_sysctls(record: Path, root: Path = Path("/proc/sys")) -> list[str]:
    """Put back what the last node leaves changed; return the names that were put back."""
    if not record.exists():
        return []
    restored = []
    for name, value in json.loads(record.read_text()).items():
        if value and sysctl_read(name, root) != value:
            (root / name.replace(".", "/")).write_text(value)
            restored.append(name)
    record.unlink()
    return restored


@contextlib.contextmanager
def kept(names: Iterable[str], root: Path = Path("/proc/sys")) -> Iterator[None]:
    """Put back at once what the body changes of these settings."""
    before = {name: sysctl_read(name, root) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value and sysctl_read(name, root) != value:
                (root / name.replace(".", "/")).write_text(value)


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that new programs can use without swapping (MemAvailable)."""
    rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(rows["MemAvailable"].split()[0]) * 1024


def free_disk(folder: Path) -> int:
    """Bytes free on the filesystem that holds ``folder`` or its nearest parent that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB"


def program_probes(
    programs: Mapping[str, str], which: Callable[[str], str | None] = shutil.which, *, required: bool = True
) -> list[Probe]:
    """One probe a program; ``programs`` maps a program to the Debian package that has it."""
    install = "apt-get install -y --no-install-recommends"
    found = {program: which(program) for program in programs}
    return [
        Probe(f"program {name}", bool(path), path or "not found", "on PATH", f"{install} {programs[name]}",
              "program_missing", required)
        for name, path in found.items()
    ]  # fmt: skip


def kernel_probes(filesystems: Path = Path("/proc/filesystems"), cgroups: Path = Path("/proc/cgroups")) -> list[Probe]:
    """Kernel features that a containerised node cannot do without."""
    overlay = "overlay" in filesystems.read_text().split()
    if not overlay and shutil.which("modprobe"):
        # Only asks: podman loads the module when it needs it.
        overlay = process.run(["modprobe", "--dry-run", "overlay"], check=False).code == 0
    enabled = {row.split()[0] for row in cgroups.read_text().splitlines()[1:] if row.split()[3] == "1"}
    wanted = {"cpu", "memory", "pids"}
    seen, needed, fix = " ".join(sorted(enabled)), " ".join(sorted(wanted)), "boot with these controllers enabled"
    reason, yes = "kernel_feature_missing", "yes" if overlay else "no"
    return [
        Probe("kernel overlay", overlay, yes, "overlay filesystem", "modprobe overlay", reason),
        Probe("cgroup controllers", wanted <= enabled, seen, needed, fix, reason),
    ]


def ipv6_probe(root: Path = Path("/proc/sys"), *, required: bool = True) -> Probe:
    """Does this host let its links have IPv6 addresses? Links that nodes get are new: the default counts, too."""
    names = ("net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6")
    seen = {name: sysctl_read(name, root) for name in names}
    absent = not any(seen.values())
    off = [name for name, value in seen.items() if value == "1"]
    seen_text = "not in this kernel" if absent else f"switched off by {' and '.join(off)}" if off else "yes"
    fix = "boot without ipv6.disable=1" if absent else f"sysctl -w {' '.join(f'{name}=0' for name in off or names)}"
    return Probe("IPv6", not absent and not off, seen_text, "switched on", fix, "ipv6_disabled", required)


def memory_probe(memory: int) -> Probe:
    """Is there room for ``memory`` bytes of nodes."""
    free, fix = available_memory(), "end other programs or choose a smaller profile"
    return Probe("memory", free >= memory, f"{_gib(free)} available", _gib(memory), fix, "memory_short")


def disk_probe(disk: int, folder: Path) -> Probe:
    """Are ``disk`` bytes free where ``folder`` is, or will be."""
    room, fix = free_disk(folder), "free some space; devenv prune removes caches"
    return Probe(f"disk {folder}", room >= disk, f"{_gib(room)} free", _gib(disk), fix, "disk_short")


def inotify_in_use(proc: Path = Path("/proc")) -> int:
    """inotify instances open on this host, those of containers included (all count against root's limit)."""
    used = 0
    for folder in proc.glob("[0-9]*/fd"):
        try:
            used += sum(os.readlink(entry.path) == "anon_inode:inotify" for entry in os.scandir(folder))
        except OSError:
            continue
    return used


def inotify_probe(needed: int, root: Path = Path("/proc/sys"), proc: Path = Path("/proc")) -> Probe:
    """Are ``needed`` inotify instances free? Without them containerd and kubelet start and then miss their parts."""
    limit = int(sysctl_read("fs.inotify.max_user_instances", root) or 0)
    free, fix = limit - inotify_in_use(proc), "sysctl -w fs.inotify.max_user_instances=512"
    seen = f"{max(free, 0)} of {limit} free"
    return Probe("inotify instances", free >= needed, seen, f"{needed} free", fix, "inotify_short")


# Not needed for a first cluster: (name, least value, what for).
ADVICE = (
    ("fs.inotify.max_user_watches", 524288, "for several nodes"),
    ("fs.inotify.max_user_instances", 512, "for several nodes"),
    ("net.ipv4.ip_forward", 1, "when nodes are to reach networks beyond this host"),
    ("net.ipv6.conf.all.forwarding", 1, "when nodes are to reach networks beyond this host"),
)


def advice_probes(root: Path = Path("/proc/sys")) -> list[Probe]:
    """Kernel settings that larger environments run into; the fix is the line to type, `up` sets none of them."""
    probes = []
    for name, least, purpose in ADVICE:
        seen = sysctl_read(name, root)
        ok, fix = seen.isdigit() and int(seen) >= least, f"sysctl -w {name}={least}"
        probes.append(Probe(name, ok, seen or "none", f"{least} {purpose}", fix, "kernel_feature_missing", False))
    return probes


def root_probe() -> Probe:
    """Nodes, networks and mounts take root."""
    user, fix = os.geteuid(), "run it as root (sudo -E ...)"
    return Probe("root", user == 0, f"user id {user}", "user id 0", fix, "root_needed")
