"""Collect what a node knows of itself, for someone who looks for a fault elsewhere and later. Reads only.

Sent to nodes as a program by ``plugin_utils/ssh/remote.py``; writes a gzipped tar to stdout while it works, so that
what a node gave before it hung is not lost. What may hold secrets is taken out by the receiver; files that are secrets
themselves (keys, kubeconfigs) are never read.
"""

from __future__ import annotations

import glob
import gzip
import io
import os
import signal
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes, program, report

JOURNAL_LINES = 6000
LIMIT = 1 << 20  # bytes of a file, its end
PODS_LIMIT = 12 << 20  # bytes of all logs of pods
COMMAND_SECONDS = 12

COMMANDS: dict[str, Sequence[str]] = {
    "system/uname.txt": ["uname", "-a"],
    "system/date.txt": ["date", "--iso-8601=ns"],
    "system/uptime.txt": ["uptime"],
    "system/memory.txt": ["free", "-m"],
    "system/disks.txt": ["df", "-a", "-T", "-h"],
    "system/inodes.txt": ["df", "-i"],
    "system/mounts.txt": ["cat", "/proc/self/mountinfo"],
    "system/cgroup.txt": ["cat", "/proc/1/cgroup"],
    "system/processes.txt": ["ps", "-eo", "pid,ppid,stat,etime,rss,pcpu,comm"],
    "system/units.txt": ["systemctl", "list-units", "--all", "--no-pager", "--plain"],
    "system/failed-units.txt": ["systemctl", "status", "--failed", "--no-pager", "--lines=20"],
    "system/services.txt": ["systemctl", "status", "containerd", "kubelet", "--no-pager", "--lines=0"],
    "network/addresses.txt": ["ip", "-d", "address"],
    "network/routes4.txt": ["ip", "-4", "route", "show", "table", "all"],
    "network/routes6.txt": ["ip", "-6", "route", "show", "table", "all"],
    "network/rules.txt": ["ip", "rule"],
    "network/neighbours.txt": ["ip", "neigh"],
    "network/sockets.txt": ["ss", "-tulpn"],
    "network/nft.txt": ["nft", "list", "ruleset"],
    "network/iptables.txt": ["iptables-save"],
    "network/ip6tables.txt": ["ip6tables-save"],
    "network/hosts.txt": ["cat", "/etc/hosts"],
    "network/resolv.txt": ["cat", "/etc/resolv.conf"],
    "containerd/containers.txt": ["ctr", "-n", "k8s.io", "containers", "ls"],
    "containerd/tasks.txt": ["ctr", "-n", "k8s.io", "tasks", "ls"],
    "containerd/images.txt": ["ctr", "-n", "k8s.io", "images", "ls"],
    "journal/boot.txt": ["journalctl", "--no-pager", "-q", "-o", "short-iso", "-n", str(JOURNAL_LINES)],
}
UNITS = ("containerd", "kubelet", "keepalived", "haproxy", "ssh")
FILES = (
    "/etc/containerd/config.toml",
    "/etc/cni/net.d/*",
    "/etc/devenv/*",
    "/etc/devenv/network.d/*",
    "/etc/haproxy/haproxy.cfg",
    "/etc/keepalived/keepalived.conf",
    "/etc/kubernetes/manifests/*.yaml",
    "/var/lib/devenv/*.json",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/var/log/devenv/*",
)
ETCD_COMMANDS = {
    "etcd/members.json": ["member", "list"],
    "etcd/health.json": ["endpoint", "health", "--cluster"],
    "etcd/status.json": ["endpoint", "status", "--cluster"],
    "etcd/alarms.json": ["alarm", "list"],
}


def main(arguments: dict[str, Any]) -> None:
    """Write the tar to stdout; ends itself after ``arguments["timeout"]`` seconds."""
    signal.alarm(int(arguments.get("timeout") or 60))
    with (
        gzip.GzipFile(fileobj=sys.stdout.buffer, mode="wb", compresslevel=2) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        for name, data in parts():
            add(tar, name, data)
    sys.stdout.buffer.flush()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to the archive."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
    tar.addfile(info, io.BytesIO(data))


def parts(root: str = "/") -> Iterator[tuple[str, bytes]]:
    """Yield name and content of everything, what is asked for most often first."""
    for unit in UNITS:
        yield (
            f"journal/{unit}.txt",
            command(["journalctl", "--no-pager", "-q", "-o", "short-iso", "-n", str(JOURNAL_LINES), "-u", unit]),
        )
    if os.path.exists(os.path.join(root, kubernetes.ETCD_MANIFEST.lstrip("/"))):
        for name, words in ETCD_COMMANDS.items():
            yield name, command(report.etcdctl(*words))
    yield from files(FILES, root)
    for name, argv in COMMANDS.items():
        yield name, command(argv)
    yield from pod_logs(root)


def command(argv: Sequence[str], seconds: float = COMMAND_SECONDS) -> bytes:
    """Return what a program prints, both streams, and how it ended; why it does not, where it cannot."""
    done = program.run(argv, timeout=seconds, merged=True)
    if not done.started:
        return f"there is no program {argv[0]}\n".encode()
    ending = "" if done.code in (0, program.TIMED_OUT) else f"\n{argv[0]} ended with code {done.code}\n"
    return last(done.output.encode()) + ending.encode()


def last(data: bytes, limit: int = LIMIT) -> bytes:
    """Return the end of a text, from the beginning of a line on: half a line may hide that it holds a secret."""
    if len(data) <= limit:
        return data
    cut = data[-limit:]
    return b"[cut]\n" + cut[cut.find(b"\n") + 1 :]


def files(patterns: Sequence[str], root: str = "/") -> Iterator[tuple[str, bytes]]:
    """Yield files by pattern, under ``files/`` with their path."""
    for pattern in patterns:
        for path in sorted(glob.glob(os.path.join(root, pattern.lstrip("/")))):
            if os.path.isfile(path):
                yield "files/" + os.path.relpath(path, root), read(path)


def read(path: str, limit: int = LIMIT) -> bytes:
    """Return the end of a file, or why it cannot be read."""
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            # One byte more than the limit tells that something was cut.
            stream.seek(max(0, size - limit - 1))
            return last(stream.read(limit + 1), limit)
    except OSError as error:
        return f"cannot be read: {error.strerror}\n".encode()


def pod_logs(root: str = "/") -> Iterator[tuple[str, bytes]]:
    """Yield logs of all containers of pods, also of those that ended, the newest first, up to ``PODS_LIMIT`` bytes.

    Layout: kubelet's, ``/var/log/pods/<namespace>_<pod>_<uid>/<container>/<restarts>.log``.
    """
    base = os.path.join(root, "var/log/pods")
    left = PODS_LIMIT
    for path in sorted(glob.glob(os.path.join(base, "*", "*", "*.log")), key=modified, reverse=True):
        data = read(path)
        left -= len(data)
        if left < 0:
            yield "pods/left-out.txt", f"older than {path}\n".encode()
            return
        yield "pods/" + os.path.relpath(path, base), data


def modified(path: str) -> float:
    """Return the time of the last change, 0 of a file that is gone."""
    try:
        return os.path.getmtime(path)
    except OSError:
        return 0.0
