"""The runner of the gates must detect every failure of a gate."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest
import run_gates as tool


def junit(path: Path, tests: int, failures: int = 0, errors: int = 0, skipped: int = 0) -> Path:
    counts = f'tests="{tests}" failures="{failures}" errors="{errors}" skipped="{skipped}"'
    path.write_text(f"<testsuites><testsuite {counts}/></testsuites>")
    return path


@pytest.mark.parametrize(
    ("numbers", "code", "strict", "expected"),
    [
        ({"tests": 4}, 0, True, (4, 0, "")),
        ({"tests": 4, "failures": 1}, 1, False, (3, 1, "ended with code 1")),
        ({"tests": 4, "errors": 2}, 1, False, (2, 2, "ended with code 1")),
        ({"tests": 4, "skipped": 1}, 0, False, (3, 0, "")),
        ({"tests": 4, "skipped": 1}, 0, True, (3, 1, "1 skipped")),
        ({"tests": 4}, 2, False, (4, 1, "ended with code 2")),
        ({"tests": 0}, 5, False, (0, 1, "no test ran")),
        ({"tests": 3}, None, False, (3, 1, "not finished within 7 minutes")),
    ],
)
def test_pytest_is_judged_by_its_report(tmp_path: Path, numbers, code, strict, expected) -> None:
    gate = tool.Gate("x", "x", ("true",), 7, junit=True)
    assert tool.judge(gate, code, "", junit(tmp_path / "x.xml", **numbers), strict=strict) == expected


@pytest.mark.parametrize(
    ("counts", "code", "output", "expected"),
    [
        ("", 0, "", (1, 0, "")),
        ("", 3, "", (0, 1, "ended with code 3")),
        ("(?m)^ran ", 0, "ran a\nran b\n", (2, 0, "")),
        ("(?m)^ran ", 1, "ran a\nran b\n", (0, 1, "ended with code 1")),
        ("(?m)^ran ", 0, "nothing", (0, 1, "no test ran")),
    ],
)
def test_programs_are_judged_by_code_and_output(tmp_path: Path, counts, code, output, expected) -> None:
    gate = tool.Gate("x", "x", ("true",), 7, counts=counts)
    assert tool.judge(gate, code, output, tmp_path / "none.xml", strict=True) == expected


def test_a_missing_report_is_a_failure(tmp_path: Path) -> None:
    gate = tool.Gate("x", "x", ("true",), 7, junit=True)
    assert tool.judge(gate, 0, "", tmp_path / "none.xml", strict=False) == (0, 1, "no test ran")


def test_the_summary_names_the_failed_tests(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(
        '<testsuites><testsuite tests="4" failures="1" errors="1" skipped="1">'
        '<testcase classname="tests.e2e.test_a" name="test_well"/>'
        '<testcase classname="tests.e2e.test_a" name="test_b[1]"><failure message="no&#10;more">x</failure></testcase>'
        '<testcase classname="tests.e2e.test_a" name="test_c"><error>gone\nafter all</error></testcase>'
        '<testcase classname="tests.e2e.test_a" name="test_d"><skipped message="needs node"/></testcase>'
        "</testsuite></testsuites>"
    )
    failures = tool.junit_failures(tmp_path / "x.xml")
    assert failures == ("tests/e2e/test_a::test_b[1]: no more", "tests/e2e/test_a::test_c: gone after all")
    strict = tool.junit_failures(tmp_path / "x.xml", strict=True)
    assert strict == (*failures, "tests/e2e/test_a::test_d: needs node")
    assert tool.junit_failures(tmp_path / "none.xml") == ()
    (tmp_path / "long.xml").write_text(
        '<testsuite><testcase classname="t" name="c">'
        f'<error message="devenv up ended with 5 {"words " * 200}error: no disk"/></testcase></testsuite>'
    )
    (line,) = tool.junit_failures(tmp_path / "long.xml")
    assert line.startswith("t::c: devenv up ended with 5 words")
    assert line.endswith("words error: no disk")
    assert len(line) < tool.WIDTH + 20
    gate = tool.Gate("x", "x", ("true",), 7, junit=True)
    lines = tool.summary([tool.Outcome(gate, 1, 2, 3.0, "ended with code 1", failures)]).splitlines()
    assert lines[-3:-1] == [f"FAILED x: {failure}" for failure in failures]
    shortened = tool.summary([tool.Outcome(gate, 0, 99, 3.0, "ended with code 1", failures * 50)]).splitlines()
    assert shortened[-2] == "FAILED x: and 90 more"
    assert len(shortened) < 20


def test_names_select_gates_in_order() -> None:
    everything = tool.gates()
    assert tool.chosen(everything, ["all"]) == everything
    assert [g.name for g in tool.chosen(everything, ["unit", "format"])] == ["format", "unit"]
    assert {g.stage for g in tool.chosen(everything, ["lint"])} == {"lint"}
    with pytest.raises(ValueError, match="unknown: nothing"):
        tool.chosen(everything, ["unit", "nothing"])


def test_every_test_file_belongs_to_a_gate() -> None:
    root = tool.ROOT
    folders = {word for gate in tool.gates(nightly=True) if gate.junit for word in gate.argv if (root / word).is_dir()}
    files = [p.relative_to(root) for top in ("tests", "wrapper") for p in (root / top).rglob("test_*.py")]
    assert files
    assert [str(f) for f in files if not any(f.is_relative_to(folder) for folder in folders)] == []


@pytest.mark.parametrize("nightly", [False, True])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("deferred", [False, True])
def test_a_test_runs_in_one_gate(nightly: bool, alone: bool, deferred: bool) -> None:
    """A ``deferred`` test is marked nightly."""
    marks_of_test = {"alone": alone, "cluster": True, "nightly": deferred}
    by_name = {gate.name: gate for gate in tool.gates(nightly=nightly)}
    marks = {name: by_name[name].argv[by_name[name].argv.index("-m") + 1] for name in ("unit", "machine", "e2e")}
    selecting = [name for name, mark in marks.items() if eval(mark, {}, marks_of_test)]
    assert selecting == ([] if deferred and not nightly else ["machine" if alone else "e2e"])


def test_output_goes_to_log_and_screen(tmp_path: Path) -> None:
    screen = io.StringIO()
    gate = tool.Gate("x", "x", ("sh", "-c", "echo out; echo err >&2; exit 4"), 1)
    outcome = tool.run(gate, live=screen, env={}, logs=tmp_path, strict=True, stop=threading.Event(), cwd=tmp_path)
    assert (outcome.failed, outcome.reason) == (1, "ended with code 4")
    assert (tmp_path / "x.log").read_text() == screen.getvalue() == "out\nerr\n"


def test_each_run_gets_its_own_empty_folder(tmp_path: Path) -> None:
    script = 'ls -A "$PLACE" | wc -l; echo "$PLACE"; touch "$PLACE/file"'
    gate = tool.Gate("x", "x", ("sh", "-c", script), 1, scratch="PLACE")
    places = []
    for _ in range(2):
        tool.run(gate, live=None, env={}, logs=tmp_path, strict=False, stop=threading.Event(), cwd=tmp_path)
        count, place = (tmp_path / "x.log").read_text().split()
        assert count == "0"
        assert not Path(place).exists()
        places.append(place)
    assert places[0] != places[1]


def test_a_timeout_ends_the_process_group(tmp_path: Path) -> None:
    gate = tool.Gate("x", "x", ("sh", "-c", "sleep 60 & echo $!; wait"), 0.01)
    begin = time.monotonic()
    outcome = tool.run(gate, live=None, env={}, logs=tmp_path, strict=True, stop=threading.Event(), cwd=tmp_path)
    assert time.monotonic() - begin < 30
    assert outcome.reason == "not finished within 0.01 minutes"
    child = int((tmp_path / "x.log").read_text())
    assert not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text()


def test_expensive_stages_do_not_run_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "LOGS", tmp_path)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    ran = tmp_path / "ran"
    gates = [
        tool.Gate("bad", "lint", ("false",), 1),
        tool.Gate("good", "lint", ("true",), 1),
        tool.Gate("next", "unit", ("true",), 1),
        tool.Gate("expensive", "e2e", ("touch", str(ran)), 1),
    ]
    out = io.StringIO()
    outcomes = tool.run_all(gates, out=out, env={}, strict=True)
    assert [(o.gate.name, o.passed, o.failed) for o in outcomes] == [
        ("bad", 0, 1),
        ("good", 1, 0),
        ("next", 1, 0),
        ("expensive", 0, 0),
    ]
    assert not ran.exists()
    assert outcomes[-1].reason
    assert tool.summary(outcomes).splitlines()[-1] == "2 passed, 1 failed"
    assert tool.summary(outcomes, ["chaos", "helm"]).splitlines()[-3:] == [
        "left to nightly: chaos",
        "left to nightly: helm",
        "2 passed, 1 failed",
    ]


def test_gates_do_not_inherit_settings_of_ansible() -> None:
    base = {"PATH": "/bin", "PYTHONUNBUFFERED": "1", "ANSIBLE_CONFIG": "x", "DEVENV_HOME": "y", "CI": "true"}
    env = tool.environment(base)
    assert env["PATH"].endswith("/.venv/bin:/bin")
    assert env["CI"] == "true"
    assert not {"PYTHONUNBUFFERED", "ANSIBLE_CONFIG", "DEVENV_HOME"} & env.keys()
