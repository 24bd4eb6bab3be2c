"""The first cause: each pattern with its example line, the order of causes, lines that are no evidence."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import causes
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics.causes import Line
from ansible_collections.devenv.lab.plugins.plugin_utils.records import recorder
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Answer

CATALOGUE = data.read(causes.FILE)
# Row index, source and example line of each pattern.
LINES = [
    (index, source, entry["line"])
    for index, row in enumerate(CATALOGUE)
    for entry in row["patterns"]
    for source in row.get("sources", causes.EVERYWHERE)
]


def line(source: str, text: str, age: float | None = 5.0, host: str = "master-0") -> Line:
    pod = source.removeprefix("pod:") or "kube-apiserver"
    return Line(host, f"{pod}-master-0/x" if source.startswith("pod:") else source, text, age)


def test_the_catalogue_fits_its_schema() -> None:
    schema = json.loads((paths.CONFIGS / "schema" / "causes.json").read_text())
    jsonschema.validate(CATALOGUE, schema)


@pytest.mark.parametrize(("index", "source", "text"), LINES)
def test_the_example_line_of_each_pattern_gives_its_cause(index: int, source: str, text: str) -> None:
    result = causes.first([line("kubelet", "all is well"), line(source, text)])
    assert result is not None
    assert result.cause == causes.catalogue()[index]
    assert result.line.text == text
    assert str(result).startswith(f"master-0: {result.cause.meaning} (")


@pytest.mark.parametrize(
    ("pattern", "text"), [(entry["pattern"], entry["line"]) for row in CATALOGUE for entry in row["patterns"]]
)
def test_each_pattern_matches_its_example_line(pattern: str, text: str) -> None:
    assert re.search(pattern, text)


def test_the_earliest_row_with_its_oldest_line_is_the_first_cause() -> None:
    late = line("kubelet", "Out of memory: Killed process 1 (x)", 1.0, "worker-0")
    lines = [
        line("kubelet", 'CrashLoopBackOff" pod="kube-system/etcd-master-0"', 9.0),
        line("services", "kubelet.service is failed", None),
        late,
        line("containerd", "write: no space left on device", 5.0, "worker-1"),
        line("containerd", "mkdir: no space left on device", 30.0, "worker-1"),
    ]
    result = causes.first(lines)
    assert result is not None
    assert (result.cause.id, result.line.text) == ("disk_full", "mkdir: no space left on device")
    assert (causes.first(lines[:3]) or result).line == late


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
        # Every host with cgroup v1 logs this: a rejected event, not a failure.
        (
            "kubelet",
            '"Server rejected event" event="Reason:CgroupV1,Message:cgroup v1 support is in maintenance mode"',
            1.0,
        ),
        # The container ended before it was inspected.
        (
            "kubelet",
            'Error while processing event ("/sys/fs/cgroup/memory/kubepods/besteffort/pod1/2": 0x40000100 == '
            "IN_CREATE|IN_ISDIR): inotify_add_watch /sys/fs/cgroup/memory/kubepods/pod1/2: no such file or directory",
            1.0,
        ),
        ("kubelet", "containerd.service is failed", 1.0),
    ],
)
def test_other_lines_are_not_evidence(source: str, text: str, age: float | None) -> None:
    assert causes.first([line(source, text, age)]) is None


def test_a_search_for_other_runtimes_is_not_a_failure() -> None:
    text = (
        "factory.go:220] Registration of the containerd container factory failed: containerd: cannot unix dial "
        "containerd api service: dial unix /run/containerd/containerd.sock: connect: no such file or directory"
    )
    assert causes.first([line("kubelet", text)]) is None


def test_no_cause_without_evidence() -> None:
    assert causes.first([]) is None
    assert causes.lines_of({"a": Answer("a", trouble="no route to host")}) == []
    answer = Answer("a", {"sources": {"kubelet": [[1.5, "x"]], "disk": [[None, "y"]]}})
    assert causes.lines_of({"a": answer}) == [Line("a", "kubelet", "x", 1.5), Line("a", "disk", "y", None)]


def test_the_shown_line_is_short_and_redacted() -> None:
    secret = "abcdef." + "0123456789abcdef"
    result = causes.first([line("kubelet", f"token {secret} no space left on device {'x' * 500}")])
    assert secret not in str(result)
    assert len(str(result)) < 400


def test_the_message_of_a_failure_includes_its_cause() -> None:
    failed = {"message": "kubeadm init: timed out", "advice": "run again", "exit": 5}
    cause = {"id": "disk_full", "message": "master-0: the disk is full (x)", "advice": "free some"}
    assert recorder.explained(failed, {}) == failed
    assert recorder.explained(failed, cause) == {
        "message": "kubeadm init: timed out; first cause: master-0: the disk is full (x)",
        "advice": "free some",
        "exit": 5,
        "cause": cause,
    }
