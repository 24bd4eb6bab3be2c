"""Validation as a whole: levels in the background, the loop over all checks, reports, the profile's own checks."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import (
    levels,
    node_checks,
    profile_checks,
    report,
    wait,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.checks import ReadOnly
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Background, Finding, Level
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.metrics import Metrics
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.pod_probes import Probes
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.storage_probe import Storage
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.wait import Check


@pytest.mark.parametrize(("count", "text"), [(0, ""), (2, "p0; p1"), (9, "p0; p1; p2; p3; p4; p5 and 3 more")])
def test_problems(count: int, text: str) -> None:
    assert levels.problems([f"p{i}" for i in range(count)]) == text


class Script(Level):
    """A level that gives prepared rounds, the last one again and again; counts how often it was asked."""

    def __init__(self, *rounds: Mapping[str, Finding], events: str = "") -> None:
        self.rounds = list(rounds)
        self.asked = 0
        self.events = events

    def look(self, api: client.Api) -> dict[str, Finding]:
        self.asked += 1
        return dict(self.rounds[min(self.asked, len(self.rounds)) - 1])

    def explain(self, api: client.Api) -> dict[str, str]:
        return dict.fromkeys(self.rounds[0], self.events)


OK = Finding("fine")
BAD = Finding("x", ("x is bad",))
NEVER = Finding("y", ("y is wrong for ever",), hopeless=True)
NO_API: Any = None


def test_all_checks_must_pass_in_the_same_round() -> None:
    level = Script({"a": OK, "b": BAD}, {"a": BAD, "b": OK}, {"a": OK, "b": OK})
    told: list[str] = []
    found = wait.until_ready(NO_API, [level], timeout=30, progress=told.append)
    assert level.asked == 3
    assert [(check.name, check.ok, check.seen) for check in found] == [("a", True, "fine"), ("b", True, "fine")]
    assert told == ["waiting for b", "waiting for a"]


def test_the_time_is_over() -> None:
    found = wait.until_ready(NO_API, [Script({"a": OK}), Script({"b": BAD}, events="e1")], timeout=0.25)
    assert [check.ok for check in found] == [True, False]
    assert found[1].seconds >= 0.25
    assert found[1].seen == "x is bad (events: e1)"
    error = wait.failure("main", found)
    assert error is not None
    assert (error.reason.id, error.exit_code) == ("validate_failed", 8)
    assert "b: x is bad" in str(error)
    assert "1 of 2 checks" in str(error)
    assert "a:" not in str(error)


def test_no_waiting_for_what_cannot_get_better() -> None:
    level = Script({"a": BAD, "b": NEVER}, {"a": OK, "b": NEVER})
    found = wait.until_ready(NO_API, [level], timeout=30)
    assert level.asked == 2
    assert [check.ok for check in found] == [True, False]


def test_one_look_in_check_mode() -> None:
    level = Script({"a": BAD}, {"a": OK})
    assert [check.ok for check in wait.until_ready(NO_API, [level], timeout=0)] == [False]
    assert level.asked == 1


def test_no_failure() -> None:
    assert wait.failure("main", [Check("a", ok=True)]) is None


@pytest.mark.parametrize(
    ("mode", "was_changed", "record", "wanted"),
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
def test_when_probes_run(tmp_path: Path, mode: str, was_changed: bool, record: str | None, wanted: bool) -> None:
    file = tmp_path / "validated.json"
    if record is not None:
        file.write_text(record)
    assert report.needs_probes(mode, changed=was_changed, record=file) is wanted


def test_record(tmp_path: Path) -> None:
    file = tmp_path / "validated.json"
    report.write_record(file, True, [Check("a", ok=True)])
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["checks"] == report.rows(tmp_path.name, [Check("a", ok=True)])
    assert not report.needs_probes("auto", changed=False, record=file)


def wait_for(level: Background, name: str) -> Finding:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        finding = level.look(NO_API)[name]
        if finding.seen != "" or finding.hopeless:
            return finding
        time.sleep(0.02)
    raise AssertionError("never looked at")


def test_a_level_in_the_background() -> None:
    level = Background(["a"], lambda: {"a": Finding("fine")})
    assert level.look(NO_API)["a"].missing == ("not looked at yet",)
    assert wait_for(level, "a") == Finding("fine")

    def breaks() -> dict[str, Finding]:
        raise RuntimeError("odd")

    assert "RuntimeError: odd" in wait_for(Background(["b"], breaks), "b").missing[0]


# --- checks of the profile's own -------------------------------------------------------------------------------------


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
def test_a_command_of_the_profile(script: str, ok: bool, text: str) -> None:
    check = {"name": "mine", "command": ["sh", "-c", script], "timeout": 7}
    finding = profile_checks.run(
        check, {"KUBECONFIG": "/k/config", "DEVENV_NAME": "mine"}, 0.5 if "sleep" in script else 7
    )
    assert finding.ok is ok
    assert text in (finding.seen if ok else finding.missing[0])


def test_own_checks_are_tried_again_and_end(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    script = f"test -e {flag} && exit 0; touch {flag}; exit 1"
    (level,) = profile_checks.levels(
        Cluster(
            "main",
            Path("k"),
            "kubeadm",
            "1.36.3",
            ("ipv4",),
            (),
            checks=({"name": "late", "command": ["sh", "-c", script], "timeout": 20},),
        ),
        "mine",
    )
    found = wait.until_ready(NO_API, [level], timeout=15)
    assert [(check.name, check.ok) for check in found] == [("profile.late", True)]
    missing = {"name": "x", "command": ["/there/is/no/program"], "timeout": 5}
    assert profile_checks.run(missing, {}, 5).hopeless


def test_junit_of_a_report(tmp_path: Path) -> None:
    good = Check("api", True, 0.5, "fine")
    bad = Check("labels", False, 3.0, "worker-0: token abcdef." + "0123456789abcdef", warnings=("soon",))
    rows = report.rows("main", [good, bad])
    assert "0123456789abcdef" not in json.dumps(rows)
    assert rows[0] == {
        "cluster": "main", "name": "api", "ok": True, "seconds": 0.5, "seen": "fine", "warnings": []
    }  # fmt: skip
    report.write_junit(tmp_path / "new" / "j.xml", "mine", rows)
    text = (tmp_path / "new" / "j.xml").read_text()
    assert 'tests="2" failures="1"' in text
    assert 'name="api"' in text
    assert "warning: soon" in text
    report.write_junit(tmp_path / "j.xml", "mine", [*rows, *report.rows("other", [good])])
    assert 'name="other: api"' in (tmp_path / "j.xml").read_text()


def test_all_clusters_are_in_one_error() -> None:
    def of_cluster(name: str) -> report.Report:
        bad = [Check("api", False, 1.0, f"{name} is down")]
        return report.Report(bad, wait.failure("main", bad))

    both = report.combined({"a": of_cluster("a"), "b": of_cluster("b")})
    assert both is not None
    assert "a is down" in str(both)
    assert "b is down" in str(both)
    assert report.combined({"a": report.Report()}) is None


# --- the table


class Silent:
    """An API that does not answer."""

    def get(self, path: str, query: object = None) -> dict[str, Any]:
        raise client.ApiUnreachable("cut")

    text = get


def test_the_table_has_every_check_and_no_other() -> None:
    table = yaml.safe_load((paths.CONFIGS / "checks.yml").read_text())
    access = client.Access("https://127.0.0.1:6443", "")
    nodes = tuple(NodeSpec(name, "control_plane", addresses=("127.0.0.1",)) for name in ("a", "b"))
    cluster = Cluster(
        "main", Path("k"), "kubeadm", "1.36.3", ("ipv4", "ipv6"), nodes, endpoint_addresses=("127.0.0.1",),
        checks=({"name": "mine", "command": ["true"], "timeout": 1},),
    )  # fmt: skip
    api: Any = Silent()
    probes = Probes(cluster, "image", 60)
    servers = node_checks.api_servers(cluster, access)
    assert servers is not None
    always: list[Level] = [ReadOnly(cluster, access), Metrics(cluster)]
    full: list[Level] = [servers, node_checks.nodes(cluster, {}), probes, Storage(probes, "image", "c")]
    full += profile_checks.levels(cluster, "mine")
    for key, group in (("always", always), ("full", full)):
        names = {name for level in group for name in level.look(api)}
        named = {re.sub("ipv[46]$", "<family>", name).replace("profile.mine", "profile.<name>") for name in names}
        assert named == set(table[key])
