"""Levels and their loop, reports, the profile's own checks, the table of checks."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.host import firewall
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import (
    host_checks,
    levels,
    node_checks,
    profile_checks,
    report,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.checks import ReadOnly
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Background, Check, Finding, Level
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.pod_probes import Probes
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.probe_pods import ProbeImage
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.storage_probe import Storage

KUBECONFIG = Path("/state/clusters/main/kubeconfig")


@pytest.mark.parametrize(("count", "text"), [(0, ""), (2, "p0; p1"), (9, "p0; p1; p2; p3; p4; p5 and 3 more")])
def test_a_long_list_of_problems_is_cut(count: int, text: str) -> None:
    assert levels.problems([f"p{i}" for i in range(count)]) == text


class Script(Level):
    """A level with prepared rounds, of which the last one repeats; counts the rounds."""

    def __init__(self, *rounds: Mapping[str, Finding], events: str = "") -> None:
        self.rounds = list(rounds)
        self.rounds_used = 0
        self.events = events

    def look(self, api: client.Api) -> dict[str, Finding]:
        self.rounds_used += 1
        return dict(self.rounds[min(self.rounds_used, len(self.rounds)) - 1])

    def explain(self, api: client.Api) -> dict[str, str]:
        return dict.fromkeys(self.rounds[0], self.events)


def test_a_firewall_between_nodes_ends_a_validation_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = firewall.Chain("inet", "guard", "forward", "forward", "drop")
    monkeypatch.setattr(firewall, "ruleset", str)
    monkeypatch.setattr(firewall, "parse", lambda text: [chain])
    monkeypatch.setattr(firewall, "sysctl_read", lambda name, root: "1")
    monkeypatch.setattr(firewall, "_uplink", lambda family: "eth0")
    host = host_checks.Host([Network("devenv-lab", "lab", "/h", "podman9", ["10.213.7.0/24"])])
    finding = host.look(NO_API)["host_firewall"]
    assert finding.hopeless
    assert "the chain inet guard forward drops ipv4 between nodes; nft insert rule inet guard" in finding.missing[0]


OK = Finding("fine")
BAD = Finding("x", ("x is bad",))
HOPELESS = Finding("y", ("y is wrong forever",), hopeless=True)
NO_API: Any = None


def test_all_checks_must_pass_in_the_same_round() -> None:
    level = Script({"a": OK, "b": BAD}, {"a": BAD, "b": OK}, {"a": OK, "b": OK})
    progress: list[str] = []
    results = levels.until_ready(NO_API, [level], timeout=30, progress=progress.append)
    assert level.rounds_used == 3
    assert [(check.name, check.ok, check.seen) for check in results] == [("a", True, "fine"), ("b", True, "fine")]
    assert progress == ["waiting for b", "waiting for a"]


def test_failing_checks_are_listed_when_the_time_is_over() -> None:
    results = levels.until_ready(NO_API, [Script({"a": OK}), Script({"b": BAD}, events="e1")], timeout=0.25)
    assert [check.ok for check in results] == [True, False]
    assert results[1].seconds >= 0.25
    assert results[1].seen == "x is bad (events: e1)"
    error = levels.failure("main", results)
    assert error is not None
    assert (error.reason.id, error.exit_code) == ("validate_failed", 8)
    assert "b: x is bad" in str(error)
    assert "1 of 2 checks" in str(error)
    assert "a:" not in str(error)


def test_hopeless_checks_end_the_wait() -> None:
    level = Script({"a": BAD, "b": HOPELESS}, {"a": OK, "b": HOPELESS})
    results = levels.until_ready(NO_API, [level], timeout=30)
    assert level.rounds_used == 2
    assert [check.ok for check in results] == [True, False]


def test_each_check_runs_once_without_a_timeout() -> None:
    level = Script({"a": BAD}, {"a": OK})
    assert [check.ok for check in levels.until_ready(NO_API, [level], timeout=0)] == [False]
    assert level.rounds_used == 1


def test_there_is_no_failure_if_all_checks_pass() -> None:
    assert levels.failure("main", [Check("a", OK)]) is None


@pytest.mark.parametrize(
    ("mode", "was_changed", "record", "expected"),
    [
        ("always", False, '{"ok": true}', True),
        ("never", True, None, False),
        ("auto", False, '{"ok": true}', False),
        ("auto", True, '{"ok": true}', True),
        ("auto", False, '{"ok": false}', True),
        ("auto", False, None, True),
        ("auto", False, "{", True),
        ("auto", False, "[]", True),
    ],
)
def test_mode_change_and_record_decide_whether_probe_pods_run(
    tmp_path: Path, mode: str, was_changed: bool, record: str | None, expected: bool
) -> None:
    file = tmp_path / "validated.json"
    if record is not None:
        file.write_text(record)
    assert report.needs_probes(mode, changed=was_changed, record=file) is expected


def test_the_record_of_a_validation(tmp_path: Path) -> None:
    file = tmp_path / "validated.json"
    report.write_record(file, True, [Check("a", OK)])
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["checks"] == report.rows(tmp_path.name, [Check("a", OK)])
    assert not report.needs_probes("auto", changed=False, record=file)


def wait_for(level: Background, name: str) -> Finding:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        finding = level.look(NO_API)[name]
        if finding.seen != "" or finding.hopeless:
            return finding
        time.sleep(0.02)
    raise AssertionError("never checked")


def test_a_background_level_reports_results_and_exceptions() -> None:
    level = Background(["a"], lambda: {"a": Finding("fine")})
    assert level.look(NO_API)["a"].missing == ("not checked yet",)
    assert wait_for(level, "a") == Finding("fine")

    def breaks() -> dict[str, Finding]:
        raise RuntimeError("odd")

    assert "RuntimeError: odd" in wait_for(Background(["b"], breaks), "b").missing[0]


# --- the profile's own checks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "ok", "text"),
    [
        ("echo one; echo two", True, "two"),
        ("true", True, "ended with 0"),
        ('echo "$KUBECONFIG $DEVENV_NAME"', True, "/k/config mine"),
        ("echo no >&2; exit 3", False, "sh ended with 3: no"),
        ("sleep 30", False, "sh did not end within 7 s"),
        ("echo password=hunter2hunter2", True, "password=[credential redacted]"),
    ],
)
def test_the_result_of_a_command_of_the_profile(script: str, ok: bool, text: str) -> None:
    check = {"name": "mine", "command": ["sh", "-c", script], "timeout": 7}
    finding = profile_checks.run(
        check, {"KUBECONFIG": "/k/config", "DEVENV_NAME": "mine"}, 0.5 if "sleep" in script else 7
    )
    assert finding.ok is ok
    assert text in (finding.seen if ok else finding.missing[0])


def test_a_command_of_the_profile_is_repeated_until_it_passes(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    script = f"test -e {flag} && exit 0; touch {flag}; exit 1"
    (level,) = profile_checks.levels(
        Cluster(
            "main",
            KUBECONFIG,
            "kubeadm",
            "1.36.3",
            ("ipv4",),
            (),
            checks=({"name": "late", "command": ["sh", "-c", script], "timeout": 20},),
        ),
        "mine",
    )
    results = levels.until_ready(NO_API, [level], timeout=15)
    assert [(check.name, check.ok) for check in results] == [("profile.late", True)]
    missing = {"name": "x", "command": ["/there/is/no/program"], "timeout": 5}
    assert profile_checks.run(missing, {}, 5).hopeless


def test_rows_and_junit_of_a_report(tmp_path: Path) -> None:
    good = Check("api", OK, 0.5)
    secret = "worker-0: token abcdef." + "0123456789abcdef"
    bad = Check("labels", Finding("", (secret,), warnings=("soon",)), 3.0)
    rows = report.rows("main", [good, bad])
    assert "0123456789abcdef" not in json.dumps(rows)
    assert rows[0] == {
        "cluster": "main", "name": "api", "ok": True, "seconds": 0.5, "seen": "fine", "warnings": []
    }  # fmt: skip
    report.write_junit(tmp_path / "new" / "j.xml", "mine", rows)
    text = (tmp_path / "new" / "j.xml").read_text()
    assert {"tests": "2", "failures": "1"}.items() <= ElementTree.fromstring(text).attrib.items()
    assert 'name="api"' in text
    assert "warning: soon" in text
    report.write_junit(tmp_path / "j.xml", "mine", [*rows, *report.rows("other", [good])])
    assert 'name="other: api"' in (tmp_path / "j.xml").read_text()


def test_failures_of_several_clusters_are_combined() -> None:
    def of_cluster(name: str) -> report.Report:
        bad = [Check("api", Finding("", (f"{name} is down",)), 1.0)]
        return report.Report(bad, levels.failure(name, bad))

    both = report.combined({"a": of_cluster("a"), "b": of_cluster("b")})
    assert both is not None
    assert "a is down" in str(both)
    assert "b is down" in str(both)
    assert report.combined({"a": report.Report()}) is None


# --- the table of checks


class Silent:
    """An API that does not answer."""

    def get(self, path: str, query: object = None) -> dict[str, Any]:
        raise client.ApiUnreachable("cut")

    text = get


def test_the_table_lists_exactly_the_checks() -> None:
    table = yaml.safe_load((paths.CONFIGS / "checks.yml").read_text())
    access = client.Access("https://127.0.0.1:6443", "")
    nodes = tuple(NodeSpec(name, "control_plane", addresses=("127.0.0.1",)) for name in ("a", "b"))
    cluster = Cluster(
        "main", KUBECONFIG, "kubeadm", "1.36.3", ("ipv4", "ipv6"), nodes, endpoint_addresses=("127.0.0.1",),
        checks=({"name": "mine", "command": ["true"], "timeout": 1},), metrics=True,
    )  # fmt: skip
    api: Any = Silent()
    probes = Probes(cluster, ProbeImage("image"), 60, "cluster.local")
    servers = node_checks.api_servers(cluster, access)
    assert servers is not None
    always: list[Level] = [ReadOnly(cluster, access)]
    full: list[Level] = [servers, node_checks.nodes(cluster, {}), probes, Storage(probes, ProbeImage("image"), "c")]
    full += [host_checks.Host([]), *profile_checks.levels(cluster, "mine")]
    for key, group in (("always", always), ("full", full)):
        names = {name for level in group for name in level.look(api)}
        named = {re.sub("ipv[46]$", "<family>", name).replace("profile.mine", "profile.<name>") for name in names}
        assert named == set(table[key])
