"""The first cause: each row of the catalogue by a line as programs write it, the order, what is not a cause."""

from __future__ import annotations

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import causes
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics.causes import Line
from ansible_collections.devenv.lab.plugins.plugin_utils.records import recorder
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Answer

# id, source, a line.
LINES = [
    ("inotify", "kubelet", 'E1121 1 kubelet.go:1] "Failed to start cAdvisor" err="inotify_init: too many open files"'),
    ("inotify", "kubelet", "Failed to create file watcher: too many open files"),
    ("disk_full", "containerd", 'level=error msg="write /var/lib/containerd/x: no space left on device"'),
    ("disk_full", "disk", "/var/lib/etcd: 0 MiB of 20480 MiB free"),
    ("memory", "kubelet", "Out of memory: Killed process 4242 (kube-apiserver)"),
    (
        "clock",
        "kubelet",
        "x509: certificate has expired or is not yet valid: current time 2020-01-01T00:00:00Z is before 2026-11-21",
    ),
    (
        "certificate_expired",
        "pod",
        "x509: certificate has expired or is not yet valid: current time 2036-01-01T00:00:00Z is after 2027-11-21",
    ),
    ("containerd_config", "containerd", "containerd: failed to load TOML from /etc/containerd/config.toml: line 3"),
    ("containerd_down", "services", "containerd.service is failed"),
    (
        "containerd_down",
        "kubeadm",
        'dial unix /run/containerd/containerd.sock: connect: connection refused"',
    ),
    (
        "cgroup_driver",
        "kubelet",
        'err="failed to run Kubelet: misconfiguration: kubelet cgroup driver: \\"systemd\\" is different"',
    ),
    (
        "cgroup_driver",
        "kubelet",
        'runc create failed: expected cgroupsPath to be of format \\"slice:prefix:name\\" for systemd cgroups',
    ),
    ("capability", "containerd", "OCI runtime create failed: runc: write oom_score_adj: operation not permitted"),
    ("swap", "kubelet", 'err="failed to run Kubelet: running with swap on is not supported"'),
    ("kubelet_config", "kubelet", 'err="failed to load kubelet config file, path: /var/lib/kubelet/config.yaml"'),
    ("port_taken", "pod", "listen tcp 0.0.0.0:6443: bind: address already in use"),
    ("port_taken", "kubeadm", "\t[ERROR Port-10250]: Port 10250 is in use"),
    (
        "image_missing",
        "kubelet",
        'Container image "registry.k8s.io/etcd:3.6.8-0" is not present with pull policy of Never',
    ),
    ("cni_plugin", "kubelet", 'plugin type="ptp" failed: failed to find plugin "ptp" in path [/usr/lib/cni]'),
    ("cni_config", "kubelet", "NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"),
    ("sandbox", "containerd", 'failed to setup network for sandbox "ab": route add: file exists'),
    ("etcd_space", "pod", "etcdserver: mvcc: database space exceeded"),
    (
        "etcd_data",
        "pod:etcd",
        '{"level":"fatal","msg":"discovery failed","error":"member ab has already been bootstrapped"}',
    ),
    ("etcd_start", "pod:etcd", '{"level":"fatal","caller":"etcdmain/etcd.go:204","msg":"discovery failed"}'),
    ("control_plane_start", "pod:kube-apiserver", 'E1121 12:00:00.1 1 run.go:72] "command failed" err="open x"'),
    ("static_pod", "kubelet", 'with CrashLoopBackOff: \\"back-off 10s restarting\\"" pod="kube-system/etcd-master-0"'),
    ("join_token", "kubeadm", 'could not find a JWS signature in the cluster-info ConfigMap for token ID "abcdef"'),
    ("name", "kubelet", "dial tcp: lookup main.x.devenv.internal on 10.0.0.1:53: no such host"),
    ("network", "kubelet", "dial tcp 10.0.0.10:6443: connect: no route to host"),
    ("kubelet_down", "services", "kubelet.service is activating"),
    ("kubelet_down", "kubeadm", "[kubelet-check] The kubelet is not healthy after 4m0s"),
    ("preflight", "kubeadm", "\t[ERROR NumCPU]: the number of available CPUs 1 is less than the required 2"),
]


def line(source: str, text: str, age: float | None = 5.0, host: str = "master-0") -> Line:
    name = {"pod": "kube-apiserver-master-0/kube-apiserver"}.get(source, source)
    if source.startswith("pod:"):
        name = f"{source.removeprefix('pod:')}-master-0/x"
    return Line(host, name, text, age)


@pytest.mark.parametrize(("wanted", "source", "text"), LINES)
def test_each_row_has_its_line(wanted: str, source: str, text: str) -> None:
    found = causes.first([line("kubelet", "all is well"), line(source, text)])
    assert found is not None
    assert found.cause.id == wanted
    assert found.line.text == text
    assert str(found).startswith(f"master-0: {found.cause.meaning} (")


def test_no_row_without_a_line() -> None:
    assert {row.id for row in causes.CATALOGUE} == {row[0] for row in LINES}
    assert all(row.advice and row.meaning for row in causes.CATALOGUE)


def test_what_makes_the_rest_happen_comes_first() -> None:
    late = line("kubelet", "Out of memory: Killed process 1 (x)", 1.0, "worker-0")
    lines = [
        line("kubelet", 'CrashLoopBackOff" pod="kube-system/etcd-master-0"', 9.0),
        line("services", "kubelet.service is failed", None),
        late,
        line("containerd", "write: no space left on device", 5.0, "worker-1"),
        line("containerd", "mkdir: no space left on device", 30.0, "worker-1"),
    ]
    found = causes.first(lines)
    assert found is not None
    assert (found.cause.id, found.line.text) == ("disk_full", "mkdir: no space left on device")
    assert (causes.first(lines[:3]) or found).line == late


@pytest.mark.parametrize(
    ("source", "text", "age"),
    [
        ("kubelet", "cni plugin not initialized", 120.0),
        ("kubelet", "cni plugin not initialized", None),
        ("containerd", "write: no space left on device", 4000.0),
        ("kubelet", '"Failed to ApplyOOMScoreAdj" err="write /proc/self/oom_score_adj: permission denied"', 1.0),
        (
            "kubelet",
            '"Skipping pod synchronization" err="[container runtime status check may not have completed yet"',
            1.0,
        ),
        ("kubelet", "dial tcp 10.0.0.10:6443: connect: connection refused", 1.0),
        ("pod:coredns", '{"level":"fatal"}', 1.0),
        # Of every host with cgroup v1: a remark that was not taken, no failure.
        (
            "kubelet",
            '"Server rejected event" event="Reason:CgroupV1,Message:cgroup v1 support is in maintenance mode"',
            1.0,
        ),
        # Of a container that ended before the look at it.
        (
            "kubelet",
            'Error while processing event ("/sys/fs/cgroup/memory/kubepods/besteffort/pod1/2": 0x40000100 == '
            "IN_CREATE|IN_ISDIR): inotify_add_watch /sys/fs/cgroup/memory/kubepods/pod1/2: no such file or directory",
            1.0,
        ),
        ("kubelet", "containerd.service is failed", 1.0),
    ],
)
def test_what_is_no_cause(source: str, text: str, age: float | None) -> None:
    assert causes.first([line(source, text, age)]) is None


def test_no_evidence() -> None:
    assert causes.first([]) is None
    assert causes.lines_of({"a": Answer("a", trouble="no route to host")}) == []
    answer = Answer("a", {"sources": {"kubelet": [[1.5, "x"]], "disk": [[None, "y"]]}})
    assert causes.lines_of({"a": answer}) == [Line("a", "kubelet", "x", 1.5), Line("a", "disk", "y", None)]


def test_the_line_is_shown_without_secrets_and_short() -> None:
    secret = "abcdef." + "0123456789abcdef"
    found = causes.first([line("kubelet", f"token {secret} no space left on device {'x' * 500}")])
    assert secret not in str(found)
    assert len(str(found)) < 400


def test_a_failure_names_its_cause() -> None:
    failed = {"message": "kubeadm init: timed out", "advice": "run again", "exit": 5}
    cause = {"id": "disk_full", "message": "master-0: the disk is full (x)", "advice": "free some"}
    assert recorder.explained(failed, {}) == failed
    assert recorder.explained(failed, cause) == {
        "message": "kubeadm init: timed out; first cause: master-0: the disk is full (x)",
        "advice": "free some",
        "exit": 5,
        "cause": cause,
    }
