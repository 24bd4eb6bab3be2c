"""The record of a run: counts, failure, JUnit, log, artifacts; no secrets."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import junit, reasons, redact
from ansible_collections.devenv.lab.plugins.plugin_utils.records import artifacts, recorder, selection
from ansible_collections.devenv.lab.plugins.plugin_utils.records.recorder import Outcome, Recorder

TOKEN = "abcdef.0123456789abcdef"


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def outcome(status: str = "ok", action: str = "ansible.builtin.command", **more: Any) -> Outcome:
    return Outcome(
        more.pop("host", "master-0"), more.pop("task", "hosts | Write"), action, status, more.pop("data", {}), **more
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def recorded(clock: Clock, controller_actions: tuple[str, ...] = ()) -> Recorder:
    recording = Recorder(clock, controller_actions)
    recording.run = recorder.Run(
        "r1", "aio", "aio-ipv4-static", f"ansible-playbook --token {TOKEN}", ["preflight", "prepare", "validate"]
    )
    return recording


@pytest.mark.parametrize(
    ("play", "stage"),
    [
        ("provision | Make nodes", "provision"),
        (" down|x", "down"),
        ("apps | x", "apps"),
        ("other | x", ""),
        ("provision", ""),
        ("", ""),
        ("Provision | x", "provision"),
    ],
)
def test_a_known_first_part_of_a_play_name_is_its_stage(play: str, stage: str) -> None:
    assert selection.stage_of(play) == stage


def test_tasks_changes_and_calls_are_counted_by_stage(clock: Clock, tmp_path: Path) -> None:
    recording = recorded(clock, ("devenv.lab.stage",))
    assert recording.play("preflight | Look") is None
    recording.task()
    recording.result(outcome(action="devenv.lab.stage"))
    clock.time += 2
    assert recording.play("preflight | Look again") is None
    clock.time += 1
    previous = recording.play("prepare | Do")
    assert previous is not None
    assert (previous.name, previous.seconds, previous.result) == ("preflight", 3.0, "done")
    recording.task()
    recording.task()
    recording.result(outcome("changed"))
    recording.result(outcome("changed", host="worker-0"))
    recording.result(outcome("skipped"))
    recording.place(tmp_path)
    clock.time += 4
    report = recording.finish(ok=True)
    assert report.failure is None
    assert report.summary["exit"] == 0
    assert report.summary["seconds"] == 7.0
    assert (report.summary["changed"], report.summary["tasks"], report.summary["module_calls"]) == (2, 3, 2)
    assert report.summary["stages"] == [
        {"name": "preflight", "seconds": 3.0, "changed": 0, "tasks": 1, "module_calls": 0, "result": "done"},
        {"name": "prepare", "seconds": 4.0, "changed": 2, "tasks": 2, "module_calls": 2, "result": "done"},
    ]
    assert json.loads((tmp_path / "summary.json").read_text()) == report.summary
    assert not (tmp_path / "failure.json").exists()


@pytest.mark.parametrize(
    ("result", "calls"),
    [
        (outcome(), 1),
        (outcome("failed"), 1),
        (outcome("skipped"), 0),
        (outcome("unreachable"), 0),
        (outcome(action="ansible.builtin.debug"), 0),
        (outcome(action="devenv.lab.stage"), 0),
        (outcome(data={"attempts": 3}), 3),
        (outcome(data={"results": [{"changed": True}, {"skipped": True}, {"attempts": 2}]}), 3),
        (outcome(data={"results": []}), 1),
        (outcome(data={"results": ["a package"]}), 1),
        (outcome(data={"attempts": "many"}), 1),
    ],
)
def test_module_calls_of_a_result(result: Outcome, calls: int) -> None:
    assert recorder.module_calls(result, frozenset({"ansible.builtin.debug", "devenv.lab.stage"})) == calls


FAILURES: list[tuple[str, str, dict[str, Any], tuple[str, int, str]]] = [
    ("reason", "preflight", {"msg": "no room", "devenv_reason": "memory_short"}, ("memory_short", 9, "no room")),
    ("none", "prepare", {"msg": "bad"}, ("prepare_failed", 4, "bad")),
    ("unknown", "kubernetes", {"msg": "bad", "devenv_reason": "nonsense"}, ("kubernetes_failed", 5, "bad")),
    ("no stage", "", {"msg": "bad"}, ("unexpected", 1, "bad")),
    ("no message", "labels", {}, ("labels_failed", 6, "failed without a message")),
    (
        "program",
        "validate",
        {"msg": "non-zero return code", "stderr": "a\nE: no such thing\n"},
        ("validate_failed", 8, "non-zero return code: E: no such thing"),
    ),
    (
        "item",
        "bundle",
        {"msg": "One or more items failed", "results": [{"msg": "fine"}, {"failed": True, "msg": "second is bad"}]},
        ("bundle_failed", 12, "second is bad"),
    ),
    (
        "reason of an item",
        "preflight",
        {"msg": "x", "results": [{"failed": True, "msg": "no room", "devenv_reason": "memory_short"}]},
        ("memory_short", 9, "no room"),
    ),
    ("lines", "down", {"msg": "a\n  b"}, ("down_failed", 13, "a b")),
    ("not text", "down", {"msg": {"a": 1}}, ("down_failed", 13, '{"a": 1}')),
    ("late", "addons", {"msg": "late", "devenv_reason": "time_over"}, ("time_over", 6, "late")),
    ("secret", "kubernetes", {"msg": f"join {TOKEN}"}, ("kubernetes_failed", 5, "join [bootstrap token redacted]")),
]


@pytest.mark.parametrize(("stage", "data", "expected"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_reason_and_message_of_a_failure(stage: str, data: Mapping[str, Any], expected: tuple[str, int, str]) -> None:
    failure = recorder.failure(stage, outcome("failed", data=data, file="tasks/main.yml:3"))
    assert (failure["reason"], failure["exit"], failure["message"]) == expected
    assert set(failure) == {"stage", "reason", "exit", "message", "advice", "host", "task", "file"}
    assert failure["advice"] == reasons.catalogue()[expected[0]].advice
    assert (failure["host"], failure["task"], failure["file"]) == ("master-0", "hosts | Write", "tasks/main.yml:3")


def test_a_result_can_have_its_own_advice_and_an_unreachable_host_is_named() -> None:
    failure = recorder.failure(
        "prepare", outcome("unreachable", data={"msg": "timed out", "devenv_advice": "look there"})
    )
    assert (failure["message"], failure["advice"]) == ("does not answer: timed out", "look there")


def test_every_stage_has_a_reason_with_its_exit_code() -> None:
    for stage, code in reasons.stages().items():
        assert (reasons.of_stage(stage).id, reasons.of_stage(stage).exit) == (f"{stage}_failed", code)
    assert reasons.of_stage("nonsense").exit == 1


def test_the_first_failure_that_was_not_rescued_counts(clock: Clock, tmp_path: Path) -> None:
    recording = recorded(clock)
    recording.place(tmp_path)
    recording.play("prepare | Do")
    recording.result(outcome("failed", data={"msg": "rescued"}, rescuable=True))
    recording.result(outcome("ignored", data={"msg": "ignored"}))
    recording.result(outcome("failed", data={"msg": "first"}))
    recording.result(outcome("failed", data={"msg": "second"}))
    recording.finish(ok=False)
    assert json.loads((tmp_path / "failure.json").read_text())["message"] == "first"
    assert json.loads((tmp_path / "summary.json").read_text())["stages"][0]["result"] == "failed"


def test_a_successful_run_with_a_rescued_failure_has_no_failure(clock: Clock) -> None:
    recording = recorded(clock)
    recording.play("prepare | Do")
    recording.result(outcome("failed", data={"msg": "rescued"}, rescuable=True))
    assert recording.finish(ok=True).failure is None


def test_junit_has_one_case_per_stage(clock: Clock, tmp_path: Path) -> None:
    recording = recorded(clock)
    recording.place(tmp_path)
    recording.play("preflight | Look")
    recording.result(outcome())
    clock.time += 1.5
    recording.play("prepare | Do")
    recording.result(outcome("failed", data={"msg": f"<bad> \x00 & {TOKEN}"}, file="f.yml:1"))
    recording.finish(ok=False)
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "3",
        "1",
        "0",
        "1",
    )
    cases = {case.get("name"): case for case in suite}
    assert list(cases) == ["preflight", "prepare", "validate"]
    assert list(cases["preflight"]) == []
    assert cases["preflight"].get("time") == "1.500"
    failed = cases["prepare"].find("failure")
    assert failed is not None
    assert failed.get("type") == "prepare_failed"
    assert failed.get("message") == "<bad> ? & [bootstrap token redacted]"
    assert "master-0, hosts | Write, f.yml:1" in (failed.text or "")
    assert cases["validate"].find("skipped") is not None


def test_interrupted_is_an_error_with_130(clock: Clock, tmp_path: Path) -> None:
    recording = recorded(clock)
    recording.place(tmp_path)
    recording.play("prepare | Do")
    report = recording.finish(ok=False, interrupted="interrupted")
    assert report.summary["exit"] == 130
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert suite.get("errors") == "1"
    assert lines(tmp_path)[-2]["status"] == "interrupted"


def test_a_failure_before_any_stage_is_in_junit(clock: Clock) -> None:
    report = recorded(clock).finish(ok=False)
    assert report.summary["exit"] == 1
    assert 'name="begin"' in report.documents["junit.xml"]


def test_lines_from_before_the_folder_is_set_are_kept_and_the_folder_may_move(clock: Clock, tmp_path: Path) -> None:
    recording = recorded(clock)
    recording.play("down | Remove")
    (tmp_path / "one").mkdir()
    recording.place(tmp_path / "one")
    recording.result(outcome())
    (tmp_path / "one").rename(tmp_path / "two")
    recording.place(tmp_path / "two")
    recording.result(outcome("changed"))
    recording.finish(ok=True)
    assert [line["event"] for line in lines(tmp_path / "two")] == ["stage", "play", "result", "result", "stage", "end"]
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        "events.jsonl",
        "log.txt",
        "junit.xml",
        "summary.json",
    }
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "two").iterdir()} == {0o600}
    assert not (tmp_path / "one").exists()


def test_events_have_the_documented_keys(clock: Clock, tmp_path: Path) -> None:
    recording = recorded(clock)
    recording.place(tmp_path)
    recording.play("prepare | Do")
    recording.result(outcome("changed", seconds=0.12345))
    event = lines(tmp_path)[-1]
    assert set(event) == {"time", "event", "stage", "play", "task", "host", "status", "seconds", "changed"}
    assert (event["stage"], event["seconds"], event["changed"]) == ("prepare", 0.123, True)


def test_the_log_has_the_output_of_programs_without_secrets(clock: Clock, tmp_path: Path) -> None:
    recording = recorded(clock)
    recording.place(tmp_path)
    recording.play(f"kubernetes | Join {TOKEN}")
    data = {
        "msg": "failed",
        "stdout": f"kubeadm join --token {TOKEN}\nnext",
        "stderr": "E: boom",
        "invocation": {"secret": "shown"},
    }
    recording.result(outcome("failed", task=f"Join with {TOKEN}", data=data))
    recording.result(outcome("ok", data={"stdout": "output of a task that changed nothing"}))
    recording.finish(ok=False)
    everything = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "E: boom" in everything
    assert "    stdout: next" in everything
    assert "shown" not in everything
    assert "output of a task" not in everything
    assert redact.find(everything) == []
    assert redact.find(json.dumps(data)) == ["bootstrap token", "token"]


def test_long_output_is_cut_after_redaction(clock: Clock) -> None:
    text = "x" * 70_000 + f" {TOKEN}"
    ((key, shown),) = recorder.texts({"stdout": text})
    assert key == "stdout"
    assert len(shown) < 61_000
    assert redact.find(shown) == []
    assert shown.startswith("[")


def test_an_unwritable_folder_does_not_fail_the_run(clock: Clock, tmp_path: Path) -> None:
    recording = recorded(clock)
    recording.place(tmp_path / "gone")
    recording.play("prepare | Do")
    assert "No such file" in recording.broken
    assert recording.finish(ok=True).summary["exit"] == 0
    assert not (tmp_path / "gone").exists()


def test_each_run_gets_its_own_artifacts_folder(clock: Clock, tmp_path: Path) -> None:
    recording = recorded(clock)
    recording.play("prepare | Do")
    recording.result(outcome("failed", data={"msg": f"bad {TOKEN}"}))
    report = recording.finish(ok=False)
    places = [artifacts.write(tmp_path / "new" / "artifacts", report, recording.log_text()) for _ in range(2)]
    assert places[0] != places[1]
    assert places[0].name.startswith("aio-")
    assert places[0].name.endswith("-r1")
    for place in places:
        assert {path.name for path in place.iterdir()} == {
            "junit.xml",
            "metadata.json",
            "summary.json",
            "failure.json",
            "log.txt",
        }
        everything = "".join(path.read_text() for path in place.iterdir())
        assert "prepare" in everything
        assert redact.find(everything) == []
    metadata = json.loads((places[0] / "metadata.json").read_text())
    assert (metadata["environment"], metadata["exit"], metadata["profile"]) == ("aio", 4, "aio-ipv4-static")
    assert metadata["versions"]["ansible-core"].startswith("2.")


def test_junit_replaces_characters_that_xml_cannot_contain() -> None:
    text = junit.render(
        "s", "c", "2026-01-01T00:00:00", [junit.Case("a", 1, "error", "k", "\x1b[31m\ud800\n", "]]>&<")]
    )
    element = ElementTree.fromstring(text.encode())[0][0]
    assert element.text == "]]>&<"
    assert element.get("message") == "?[31m?\n"


def test_recording_takes_less_than_2_ms_per_result(tmp_path: Path) -> None:
    recording = Recorder()
    recording.place(tmp_path)
    recording.play("prepare | Do")
    began = time.process_time()
    for _ in range(1000):
        recording.result(outcome("changed", data={"msg": "some words", "stdout": "a line of a program\n" * 20}))
    assert time.process_time() - began < 2, "more than 2 ms of processor time per result"
