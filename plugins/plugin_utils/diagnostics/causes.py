"""Why did a cluster not come up? The first cause in what nodes tell, by an ordered catalogue of patterns.

What stands further up in the catalogue makes what stands below it happen: a full disk lets etcd fail, a missing etcd
the API server, a missing API server everything else. So the first row that any node has evidence for is the one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, state
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote

PROGRAM = "node.report"
SECONDS = 12.0
SHOWN = 300
# A node that starts says much that is over a moment later.
RECENT = 45.0
OLDEST = 300.0
# Failures of which the nodes know more than the task that failed: those of the stages from kubernetes on.
EXITS = frozenset({5, 6, 7, 8})


@dataclass(frozen=True)
class Cause:
    """A row of the catalogue. ``sources`` are those of module_utils/node/report.py (``pod:etcd`` for containers of
    pods whose name begins so); ``recent``: only a line of the last ``RECENT`` seconds counts.
    """

    id: str
    meaning: str
    advice: str
    pattern: re.Pattern[str]
    sources: tuple[str, ...] = ("containerd", "kubelet", "kubeadm", "pod:")
    recent: bool = False


@dataclass(frozen=True)
class Line:
    """One line of evidence; ``age`` in seconds, None when it has none."""

    host: str
    source: str
    text: str
    age: float | None = None


@dataclass(frozen=True)
class Found:
    """The cause, and the line that says so."""

    cause: Cause
    line: Line

    def __str__(self) -> str:
        text = " ".join(redact(self.line.text).split())
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
        return f"{self.line.host}: {self.cause.meaning} ({self.line.source}: {shown})"


def _row(name: str, meaning: str, advice: str, pattern: str, *sources: str, recent: bool = False) -> Cause:
    more: dict[str, Any] = {"sources": sources} if sources else {}
    return Cause(name, meaning, advice, re.compile(pattern), recent=recent, **more)


CATALOGUE: tuple[Cause, ...] = (
    # the machine
    _row(
        "inotify",
        "the kernel's limit of inotify instances or watches is reached",
        "sysctl -w fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=524288",
        r"(?i)inotify.{0,80}(no space left|too many open files)"
        r"|(create|start|initiali[sz]e).{0,40}(fsnotify|inotify|watcher).{0,80}(too many open files|no space)",
    ),
    _row(
        "disk_full",
        "the disk is full",
        "Free some space on this host (devenv prune removes caches), then run again.",
        r"(?i)no space left on device|disk quota exceeded|\bENOSPC\b",
    ),
    _row("disk_full", "the disk is full", "Free some space on this host, then run again.", r"free$", "disk"),
    _row(
        "memory",
        "memory ran out, and the kernel ended a program",
        "End other programs, or give the node more memory in the profile.",
        r"(?i)out of memory: killed|oom-kill|cannot allocate memory",
    ),
    _row(
        "clock",
        "the clock is wrong",
        "Set the clocks of this machine and the nodes right.",
        r"certificate has expired or is not yet valid: current time \S+ is before|x509: certificate is not yet valid",
        recent=True,
    ),
    _row(
        "certificate_expired",
        "a certificate has ended",
        "devenv validate lists certificates that end; kubeadm certs renew all on the node renews them.",
        r"certificate has expired or is not yet valid: current time \S+ is after|certificate has expired",
        recent=True,
    ),
    # the container runtime
    _row(
        "containerd_config",
        "containerd does not take its configuration",
        "Look at /etc/containerd/config.toml on the node; devenv up writes it anew.",
        r"(?i)containerd: (failed to load TOML|invalid|.{0,40}unsupported config|failed to get valid cri)"
        r"|failed to (load|decode) (TOML|config)|invalid plugin config",
        "containerd",
    ),
    _row(
        "containerd_down",
        "containerd does not run",
        "systemctl status containerd on the node; devenv up starts it.",
        r"^containerd\.service is ",
        "services",
    ),
    _row(
        "containerd_down",
        "kubelet does not reach containerd",
        "systemctl status containerd on the node.",
        r"(?i)containerd\.sock.{0,80}(connection refused|no such file)"
        r"|container runtime is down|failed to (run|get) .{0,60}CRI v1",
        "kubelet",
        "kubeadm",
        recent=True,
    ),
    _row(
        "cgroup_driver",
        "kubelet, containerd and the kernel disagree on cgroups",
        "devenv doctor shows what the kernel has; the node's cgroup driver follows from it.",
        r"(?i)misconfiguration: kubelet cgroup driver|expected cgroupsPath to be of format"
        r"|configured to not run on a host using cgroup v1|cgroup mountpoint does not exist"
        r"|failed to (initialize|create) (top level|root) ?(QOS|cgroup)",
    ),
    _row(
        "capability",
        "the container runtime lacks a right on this machine",
        "devenv doctor shows what is missing.",
        r"(?i)oci runtime (create|exec) failed.{0,300}(operation not permitted|permission denied)",
        "containerd",
        "kubelet",
    ),
    # kubelet
    _row(
        "swap",
        "kubelet refuses a machine with swap",
        "swapoff -a on the host, or let kubelet allow it.",
        r"(?i)running with swap on is not supported",
    ),
    _row(
        "kubelet_config",
        "kubelet does not take its configuration",
        "Look at /var/lib/kubelet/config.yaml on the node.",
        r"(?i)failed to (load|validate|parse) kubelet (config|configuration|flags?)|unknown flag: --"
        r'|command failed" err="failed to',
        "kubelet",
    ),
    _row(
        "port_taken",
        "a port is taken by another program",
        "ss -tlpn on the node says by which; end it and run again.",
        r"(?i)bind: address already in use|\[ERROR Port-\d+\]",
    ),
    _row(
        "image_missing",
        "an image is missing on the node",
        "devenv bundle verify checks the bundle; devenv image load brings an image to the nodes.",
        r"(?i)ErrImageNeverPull|is not present with pull policy of Never|ErrImagePull|ImagePullBackOff"
        r"|failed to pull (and unpack )?image|\[ERROR ImagePull\]",
    ),
    _row(
        "cni_plugin",
        "a program of the pod network is missing on the node",
        "The node lacks a CNI plugin of the bundle; devenv bundle build makes it anew.",
        r'(?i)failed to find plugin "[^"]+" in path|error loading CNI config|failed to load CNI config',
        recent=True,
    ),
    _row(
        "cni_config",
        "the pod network is not configured on the node",
        "Look at /etc/cni/net.d on the node; devenv up writes it anew.",
        r"(?i)cni plugin not initialized|no network config found in /etc/cni",
        recent=True,
    ),
    _row(
        "sandbox",
        "pods cannot be given a network",
        "journalctl -u containerd on the node says more.",
        r"(?i)failed to (setup network|create pod sandbox|create sandbox)",
        "kubelet",
        "containerd",
        recent=True,
    ),
    # the control plane
    _row(
        "etcd_space",
        "etcd's database is full",
        "etcdctl defrag and etcdctl alarm disarm on the node.",
        r"database space exceeded|alarm:NOSPACE|\bNOSPACE\b",
    ),
    _row(
        "etcd_data",
        "etcd's data does not fit the cluster",
        "The node has data of another cluster: take it out (devenv node replace) or make the environment anew.",
        r"(?i)member \S+ has already been bootstrapped|cluster ID mismatch|request sent was ignored|"
        r"failed to (read|open).{0,40}wal|(panic|fatal).{0,80}(snapshot|wal|database)|permanently removed from",
        "pod:etcd",
    ),
    _row(
        "etcd_start",
        "etcd does not start",
        "The log of etcd is under /var/log/pods on the node.",
        r'"level":"(fatal|panic)"|^panic: |etcd-join.{0,200}(timed out|error)|unhealthy cluster',
        "pod:etcd",
        "kubeadm",
    ),
    _row(
        "control_plane_start",
        "a part of the control plane ends as soon as it starts",
        "Its log is under /var/log/pods on the node.",
        r"^(F\d{4} |Error: |panic: |E\d{4}.{0,60}\"?command failed)",
        "pod:kube-apiserver",
        "pod:kube-controller-manager",
        "pod:kube-scheduler",
        recent=True,
    ),
    _row(
        "static_pod",
        "a container of the control plane ends again and again",
        "Its log is under /var/log/pods on the node.",
        r'CrashLoopBackOff.{0,200}pod="?kube-system/(etcd|kube-)',
        "kubelet",
        recent=True,
    ),
    # joining
    _row(
        "join_token",
        "the token for joining is not valid, or of another cluster",
        "Run again: it is made anew.",
        r"(?i)token id \"?\S+\"? is invalid|could not find a JWS signature|none of the public keys"
        r"|cluster CA found in cluster-info.{0,80}invalid",
        "kubeadm",
    ),
    _row(
        "name",
        "the name of the control plane does not resolve on the node",
        "Look at /etc/hosts on the node; devenv up writes it anew.",
        r"(?i)lookup \S+\.devenv\.internal.{0,60}(no such host|server misbehaving|i/o timeout)",
        recent=True,
    ),
    _row(
        "network",
        "the node does not reach the control plane",
        "ip route and nft list ruleset on the node and on this host.",
        r"(?i)dial tcp \S+:6443: (connect: no route to host|connect: network is unreachable|i/o timeout)",
        recent=True,
    ),
    _row(
        "kubelet_down",
        "kubelet does not run",
        "journalctl -u kubelet on the node; devenv up starts it.",
        r"^kubelet\.service is ",
        "services",
    ),
    _row(
        "kubelet_down",
        "kubelet did not become healthy",
        "journalctl -u kubelet on the node.",
        r"(?i)the kubelet is not healthy|kubelet isn't running",
        "kubeadm",
    ),
    _row(
        "preflight",
        "kubeadm's own checks of the node failed",
        "The line says what is missing on the node.",
        r"\[ERROR [A-Za-z-]+\]",
        "kubeadm",
    ),
)


def first(lines: Iterable[Line], oldest: float = OLDEST, catalogue: Sequence[Cause] = CATALOGUE) -> Found | None:
    """The first row of the catalogue that has evidence, with the oldest line that counts; None without any. What is
    older than ``oldest`` seconds may have been put right since.
    """
    kept = [line for line in lines if line.age is None or line.age <= oldest]
    for cause in catalogue:
        matching = [line for line in kept if _counts(line, cause) and cause.pattern.search(line.text)]
        if matching:
            # The oldest: what it brought about came later.
            return Found(cause, max(matching, key=lambda line: line.age if line.age is not None else -1.0))
    return None


def _counts(line: Line, cause: Cause) -> bool:
    of_pod = "/" in line.source
    allowed = any(
        (of_pod and line.source.startswith(source.removeprefix("pod:")))
        if source.startswith("pod:")
        else line.source == source
        for source in cause.sources
    )
    return allowed and not (cause.recent and (line.age is None or line.age > RECENT))


def lines_of(answers: Mapping[str, remote.Answer]) -> list[Line]:
    """Evidence of all nodes that answered; one that did not says nothing."""
    found = []
    for name, answer in answers.items():
        for source, rows in (answer.data.get("sources") or {}).items():
            found += [Line(name, source, str(text), age) for age, text in rows]
    return found


def look(folder: Path, oldest: float = OLDEST, seconds: float = SECONDS) -> Found | None:
    """Ask all nodes of the environment with this state folder. Raises DevenvError ``state_broken``."""
    resolved = state.read_profile(folder)
    network = state.read_network(folder)
    if resolved is None or network is None:
        return None
    hosts = inventory.build(resolved, network, folder)["hosts"]
    targets = [
        remote.target(name, variables, own_connection=True, patience=5)
        for name, variables in hosts.items()
        if variables.get("ansible_host") and variables.get("devenv_cluster")
    ]
    source = remote.program(PROGRAM, "main", {"part": "evidence", "timeout": int(seconds)})
    return first(lines_of(remote.ask_all(targets, source, seconds)), oldest)
