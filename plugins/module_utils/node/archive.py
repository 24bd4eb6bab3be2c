"""Collect logs and state of a node for a later diagnosis. Reads only.

``plugin_utils/ssh/remote.py`` runs it on nodes as a program. It writes a gzipped tar to stdout while it works, so that
the output of a node that hangs later is not lost. The receiver redacts secrets; files that are secret as a whole (keys,
kubeconfigs) are never read.
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

from ansible_collections.devenv.lab.plugins.module_utils.node import files, kubernetes, program, report

JOURNAL_LINES = 6000
LIMIT = 1 << 20  # bytes from the end of a file
PODS_LIMIT = 12 << 20  # bytes of all pod logs together
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
    """Write the tar to stdout, within ``arguments["timeout"]`` s."""
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
    """Yield the name and content of every file, the most useful first."""
    for unit in UNITS:
        yield (
            f"journal/{unit}.txt",
            command(["journalctl", "--no-pager", "-q", "-o", "short-iso", "-n", str(JOURNAL_LINES), "-u", unit]),
        )
    if os.path.exists(os.path.join(root, kubernetes.ETCD_MANIFEST.lstrip("/"))):
        for name, words in ETCD_COMMANDS.items():
            yield name, command(report.etcdctl(*words))
    yield from matching(FILES, root)
    for name, argv in COMMANDS.items():
        yield name, command(argv)
    yield from pod_logs(root)


def command(argv: Sequence[str], seconds: float = COMMAND_SECONDS) -> bytes:
    """Return both output streams of a program, and its exit code if that is not 0."""
    result = program.run(argv, timeout=seconds, merged=True)
    if not result.started:
        return f"the program {argv[0]} is not installed\n".encode()
    ending = "" if result.code in (0, program.TIMED_OUT) else f"\n{argv[0]} ended with code {result.code}\n"
    return last(result.output.encode()) + ending.encode()


def last(data: bytes, limit: int = LIMIT) -> bytes:
    """Return the end of a text, complete lines only: a secret in half a line may not be recognized."""
    if len(data) <= limit:
        return data
    cut = data[-limit:]
    return b"[cut]\n" + cut[cut.find(b"\n") + 1 :]


def matching(patterns: Sequence[str], root: str = "/") -> Iterator[tuple[str, bytes]]:
    """Yield the files that match ``patterns``, as ``files/`` and their path."""
    for pattern in patterns:
        for path in sorted(glob.glob(os.path.join(root, pattern.lstrip("/")))):
            if os.path.isfile(path):
                yield "files/" + os.path.relpath(path, root), read(path)


def read(path: str, limit: int = LIMIT) -> bytes:
    """Return the end of a file, or why it cannot be read."""
    try:
        return last(files.read_end(path, limit + 1), limit)  # one more byte shows that the file is longer
    except OSError as error:
        return f"cannot be read: {error.strerror}\n".encode()


def pod_logs(root: str = "/") -> Iterator[tuple[str, bytes]]:
    """Yield the logs of all containers, terminated ones included, the newest first, up to ``PODS_LIMIT`` bytes.

    kubelet's layout is ``/var/log/pods/<namespace>_<pod>_<uid>/<container>/<restarts>.log``.
    """
    base = os.path.join(root, "var/log/pods")
    remaining = PODS_LIMIT
    for path in sorted(glob.glob(os.path.join(base, "*", "*", "*.log")), key=modified, reverse=True):
        data = read(path)
        remaining -= len(data)
        if remaining < 0:
            yield "pods/left-out.txt", f"older than {path}\n".encode()
            return
        yield "pods/" + os.path.relpath(path, base), data


def modified(path: str) -> float:
    """Return the time of the last change, 0 for a file that no longer exists."""
    try:
        return os.path.getmtime(path)
    except OSError:
        return 0.0
