"""Checks of the nodes' answers, the program that runs on nodes, and the check of storage."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node import report as node_report
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Answer, Target
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import node_checks, storage_probe

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
NO_API: Any = None


def cluster(*names: str, **more: Any) -> Cluster:
    nodes = tuple(NodeSpec(name, "control_plane" if "master" in name else "workers") for name in names)
    return Cluster("main", Path("kubeconfig"), "kubeadm", "1.36.3", ("ipv4",), nodes, **more)


def member(name: str, *, learner: bool = False, started: bool = True) -> dict[str, Any]:
    return {"name": name, "learner": learner, "started": started, "peers": ["https://10.0.0.9:2380"]}


def answer(
    name: str, *, services: dict[str, str] | None = None, ends: dict[str, str] | None = None, etcd: Any = None,
    ahead: float = 0.0, doubt: float = 0.1,
) -> Answer:  # fmt: skip
    states = services or {"containerd.service": "active", "kubelet.service": "active"}
    data = {"services": states, "certificates": ends or {"/x.crt": "2027-11-21T00:00:00Z"}, "etcd": etcd}
    return Answer(name, data, "", ahead, doubt)


HEALTHY = {"members": [member("master-0"), member("master-1")], "healthy": True, "trouble": ""}


def test_healthy_nodes_pass_every_check() -> None:
    answers = {name: answer(name, etcd=HEALTHY) for name in ("master-0", "master-1")} | {"worker-0": answer("worker-0")}
    findings = node_checks.findings(cluster("master-0", "master-1", "worker-0"), answers, NOW)
    assert {name: finding.missing for name, finding in findings.items()} == dict.fromkeys(
        ("ssh", "services", "certificates", "clocks", "etcd_members", "etcd_health"), ()
    )


def test_a_node_that_does_not_answer_fails_only_ssh() -> None:
    answers = {"master-0": answer("master-0", etcd=HEALTHY), "master-1": Answer("master-1", trouble="no route to host")}
    findings = node_checks.findings(cluster("master-0", "master-1"), answers, NOW)
    assert {name: finding.missing for name, finding in findings.items() if not finding.ok} == {
        "ssh": ("master-1: no route to host",)
    }
    no_answers = node_checks.findings(cluster("master-0"), {"master-0": Answer("master-0", trouble="x")}, NOW)
    assert [name for name, finding in no_answers.items() if finding.ok] == []


@pytest.mark.parametrize(
    ("services", "missing"),
    [
        ({"containerd.service": "failed", "kubelet.service": "active"}, ("worker-0: containerd is failed",)),
        ({"containerd.service": "active"}, ("worker-0: kubelet is not installed",)),
    ],
)
def test_services_must_be_active(services: dict[str, str], missing: tuple[str, ...]) -> None:
    assert node_checks.check_services({"worker-0": answer("worker-0", services=services)}).missing == missing


@pytest.mark.parametrize(
    ("end", "expired", "warned"),
    [
        ("2027-11-21T00:00:00Z", 0, 0),
        ("2026-12-21T00:00:01Z", 0, 0),
        ("2026-12-20T00:00:00Z", 0, 1),
        ("2026-11-21T00:00:01Z", 0, 1),
        ("2026-11-20T23:59:59Z", 1, 0),
    ],
)
def test_certificates_must_not_have_expired(end: str, expired: int, warned: int) -> None:
    finding = node_checks.check_certificates(
        {"m": answer("m", ends={"/a.crt": end, "/b": "2030-01-01T00:00:00Z"})}, NOW
    )
    assert (len(finding.missing), len(finding.warnings), finding.hopeless) == (expired, warned, bool(expired))
    assert all("/a.crt" in text for text in (*finding.missing, *finding.warnings))


def test_nodes_without_certificates_fail() -> None:
    assert not node_checks.check_certificates({"m": Answer("m", {"certificates": {}})}, NOW).ok


@pytest.mark.parametrize(
    ("ahead", "missing", "warnings"),
    [
        ((0.0, -0.1, 0.02), 0, 0),
        ((0.0, -1.5, 0.0), 0, 2),
        ((0.0, 30.0, 0.0), 2, 0),
        ((-40.0, -40.0, -40.0), 1, 0),
    ],
)
def test_clocks_must_agree(ahead: tuple[float, ...], missing: int, warnings: int) -> None:
    answers = {f"n{number}": answer(f"n{number}", ahead=value) for number, value in enumerate(ahead)}
    finding = node_checks.check_clocks(answers)
    assert (len(finding.missing), len(finding.warnings)) == (missing, warnings)


def test_a_slow_answer_does_not_count_as_a_wrong_clock() -> None:
    assert node_checks.check_clocks({"n": answer("n", ahead=-7.0, doubt=8.0)}).ok


@pytest.mark.parametrize(
    ("members", "missing"),
    [
        ([member("master-0")], ("master-1 is not a member (seen by master-0, master-1)",)),
        (
            [member("master-0"), member("master-1", learner=True)],
            ("master-1 is a learner without a vote (seen by master-0, master-1)",),
        ),
        (
            [member("master-0"), member("master-1", started=False)],
            ("master-1 has not started (seen by master-0, master-1)",),
        ),
        (
            [member("master-0"), member("master-1"), member("gone")],
            ("gone is not a control plane node (seen by master-0, master-1)",),
        ),
        (
            [member("master-0"), member("master-1"), member("", started=False)],
            ("member https://10.0.0.9:2380 is not a control plane node (seen by master-0, master-1)",),
        ),
    ],
)
def test_etcd_members_must_be_the_control_plane_nodes(members: list[dict[str, Any]], missing: tuple[str, ...]) -> None:
    etcd = {**HEALTHY, "members": members}
    answers = {name: answer(name, etcd=etcd) for name in ("master-0", "master-1")}
    assert node_checks.check_etcd_members(cluster("master-0", "master-1"), answers).missing == missing


def test_an_etcd_member_that_does_not_answer_fails() -> None:
    failing = {"members": [], "healthy": False, "trouble": "context deadline exceeded"}
    answers = {"master-0": answer("master-0", etcd=failing), "master-1": answer("master-1", etcd=HEALTHY)}
    two_masters = cluster("master-0", "master-1")
    assert node_checks.check_etcd_members(two_masters, answers).missing == ("master-0: context deadline exceeded",)
    assert node_checks.check_etcd_health(answers).missing == ("master-0: context deadline exceeded",)
    assert not node_checks.check_etcd_health({}).ok
    assert not node_checks.check_etcd_members(two_masters, {}).ok


def test_each_api_server_must_be_ready() -> None:
    rows = [("master-0", "10.0.0.10"), ("master-1", "10.0.0.11")]
    assert node_checks.check_api(rows, {"10.0.0.10": "", "10.0.0.11": "connection refused"}).missing == (
        "master-1 10.0.0.11: connection refused",
    )
    assert node_checks.check_api(rows, dict.fromkeys(("10.0.0.10", "10.0.0.11"), "")).ok


# --- the program on nodes --------------------------------------------------------------------------------------------


def local_target(script: str) -> Target:
    """This machine as a node: 'ssh' runs the command in a shell."""
    return Target("n", ("sh", "-c", f'{script}; exec sh -c "$1"', "sh"), (sys.executable,))


def test_the_program_runs_on_a_node() -> None:
    source = remote.program(node_checks.REPORT, "main", {"part": "health", "timeout": 20})
    (report,) = remote.ask_all([local_target("true")], source, 30).values()
    assert report.trouble == ""
    assert {"services", "certificates", "etcd"} <= report.data.keys()
    assert abs(report.ahead) < 5


@pytest.mark.parametrize("greeting", ["echo welcome", "printf welcome", "echo '{}'; echo '[ ok ]' >&2", "seq 9999"])
def test_a_shell_that_prints_a_greeting_does_not_change_an_answer(greeting: str) -> None:
    source = remote.program(node_checks.REPORT, "main", {"part": "health", "timeout": 20})
    (report,) = remote.ask_all([local_target(greeting)], source, 30).values()
    assert (report.trouble, "services" in report.data) == ("", True)
    printed = subprocess.run(["sh", "-c", greeting], capture_output=True, text=True, check=True).stdout
    assert report.greeting == printed
    assert remote.execute(local_target(greeting), "printf 'a\\nb'; exit 3", check=False).stdout == "a\nb"


@pytest.mark.parametrize(
    ("target", "trouble"),
    [
        (Target("n", ("sh", "-c", "echo 'no route to host' >&2; exit 255", "sh")), "no route to host"),
        (Target("n", ("sh", "-c", "sleep 30", "sh")), "no answer within 0.5 s"),
        (Target("n", ("/there/is/no/ssh",)), "ssh cannot be started: No such file or directory"),
        (Target("n", ("sh", "-c", "cat > /dev/null; echo nonsense", "sh")), "JSONDecodeError"),
    ],
)
def test_why_a_node_did_not_answer(target: Target, trouble: str) -> None:
    answers = remote.ask_all([target], "print(1)", 0.5)
    assert trouble in answers["n"].trouble
    assert answers["n"].data == {}


@pytest.mark.parametrize(
    ("line", "aged"),
    [
        ("1700000000.500000 master-0 kubelet[12]: E1121 text: more", [9.5, "E1121 text: more"]),
        ("not of a journal", [None, "not of a journal"]),
    ],
)
def test_age_and_text_of_a_journal_line(line: str, aged: list[Any]) -> None:
    assert node_report.aged(line, 1700000010.0) == aged


def test_last_lines_of_the_newest_container_logs(tmp_path: Path) -> None:
    place = tmp_path / "kube-system_etcd-master-0_1234" / "etcd"
    place.mkdir(parents=True)
    (place / "0.log").write_text("2026-11-21T09:00:00.1Z stderr F old\n")
    (place / "1.log").write_text("2026-11-21T09:00:00.1Z stderr F panic: x\n2026-11-21T09:00:00.2Z stdout P half")
    now = time.time()
    logs = node_report.containers(str(tmp_path), now)
    assert [text for _, text in logs["etcd-master-0/etcd"]] == ["panic: x", "half"]
    assert all(abs(age) < 60 for age, _ in logs["etcd-master-0/etcd"])


@pytest.mark.parametrize(
    ("joined", "kubelet", "lines"),
    [
        (True, "inactive", ["kubelet.service is inactive"]),
        (False, "inactive", []),
        (False, "activating", ["kubelet.service is activating"]),
        (False, "failed", ["kubelet.service is failed"]),
        (True, "active", []),
    ],
)
def test_an_inactive_kubelet_is_evidence_only_on_a_joined_node(joined: bool, kubelet: str, lines: list[str]) -> None:
    states = {
        "containerd.service": {"found": True, "active": "active"},
        "kubelet.service": {"found": True, "active": kubelet},
        "other.service": {"found": False, "active": "inactive"},
    }
    assert node_report.idle_services(states, joined) == lines


def test_the_last_error_of_etcdctl_is_reported() -> None:
    assert (
        node_report._last_line('{"level":"warn","error":"context deadline exceeded"}\n') == "context deadline exceeded"
    )
    assert (
        node_report._last_line('{"level":"warn","error":"x"}\nError: unhealthy cluster\n') == "Error: unhealthy cluster"
    )
    assert node_report._last_line("") == ""


# --- storage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "pod", "missing"),
    [
        ("Bound", {"phase": "Succeeded"}, ()),
        ("Pending", {"phase": "Pending"}, ("claim of class c is Pending", "pod is Pending")),
        ("Bound", {"phase": "Failed", "message": "exit 1"}, ("pod is Failed: exit 1",)),
    ],
)
def test_a_volume_must_be_bound_and_readable(claim: str, pod: dict[str, Any], missing: tuple[str, ...]) -> None:
    finding = storage_probe.check_storage({"status": {"phase": claim}}, {"status": pod}, "c")
    assert finding.missing == missing
    assert finding.hopeless is (pod["phase"] == "Failed")


@pytest.mark.parametrize(
    "module", ["node.report", "node.archive", "existing.host", "existing.reset", "kubeadm.upgrade_stage"]
)
def test_programs_on_nodes_need_only_the_standard_library(module: str) -> None:
    """Import each program completely, then call an object that is not callable: nothing on this machine is read."""
    source = remote.program(module, "annotations", {})
    # -S and -I hide the packages of this machine.
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-"], input=source, capture_output=True, text=True, check=False
    )
    assert result.stderr.splitlines()[-1] == "TypeError: '_Feature' object is not callable"


def test_the_fingerprint_changes_with_content_and_mode_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Exclude the units and the kubelet of this machine.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kubernetes, "kubelet_healthy", lambda: False)
    managed, file = tmp_path / "var/lib/devenv/managed.json", tmp_path / "etc/one"
    for path, text in ((managed, json.dumps({"parts": {"a": {"files": ["/etc/one", "/etc/two"]}}})), (file, "1")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    before = node_report.fingerprint(str(tmp_path))
    assert before["file /etc/two"] == "absent"
    assert before["kubernetes"] == '{"marker": {}, "missing": [], "state": "absent"}'
    os.utime(file, (1, 1))
    assert node_report.fingerprint(str(tmp_path)) == before
    file.chmod(0o600)
    after = node_report.fingerprint(str(tmp_path))
    assert {key for key in before if before[key] != after[key]} == {"file /etc/one"}
    file.chmod(0o644)
    file.write_text("2")
    assert node_report.fingerprint(str(tmp_path))["file /etc/one"] not in (
        before["file /etc/one"],
        after["file /etc/one"],
    )
