"""From events to Updates, and how they are shown."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest

from devenv.runs import progress
from devenv.runs.progress import Tracker, Update


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def play(name: str) -> dict[str, Any]:
    return {"event": "playbook_on_play_start", "event_data": {"name": name, "play": name}}


def task(name: str) -> dict[str, Any]:
    return {"event": "playbook_on_task_start", "event_data": {"task": name}}


def result(event: str = "runner_on_ok", **res: Any) -> dict[str, Any]:
    ignore = res.pop("ignore_errors", None)
    return {"event": event, "event_data": {"res": res, "ignore_errors": ignore}}


STATS: Mapping[str, Any] = {"event": "playbook_on_stats", "event_data": {}}


def updates_of(tracker: Tracker, *events: Mapping[str, Any]) -> list[Update]:
    return [update for event in events for update in tracker.feed(event)]


def test_a_stage_spans_its_plays() -> None:
    clock = Clock()
    tracker = Tracker(clock)
    updates = updates_of(tracker, play("Provision | Create the nodes"), task("Create"), result(changed=True))
    clock.now += 12.5
    updates += updates_of(
        tracker, play("Provision | End"), result(changed=True), play("Prepare | Check"), task("T"), STATS
    )
    assert updates == [
        Update("begin", "provision", "Create the nodes"),
        Update("task", "provision", "Create"),
        Update("end", "provision", seconds=12.5, changed=2),
        Update("begin", "prepare", "Check"),
        Update("task", "prepare", "T"),
        Update("end", "prepare"),
    ]


def test_a_stage_without_a_task_is_not_shown() -> None:
    tracker = Tracker(Clock())
    updates = updates_of(tracker, play("Bundle | Fetch"), play("Labels | Apply"), task("T"), play("Validate | Wait"))
    updates += updates_of(tracker, play("Report the next steps"), task("Record"), STATS)
    assert [(update.kind, update.stage) for update in updates] == [
        ("begin", "labels"), ("task", "labels"), ("end", "labels"), ("task", ""),
    ]  # fmt: skip


def test_a_play_without_a_stage_belongs_to_the_previous_stage() -> None:
    tracker = Tracker(Clock())
    assert updates_of(tracker, play("provision | Create"), task("T"), play("all"), STATS)[-1].stage == "provision"


def test_gathering_after_a_failure_is_a_stage() -> None:
    tracker = Tracker(Clock())
    note = {"event": "verbose", "stdout": "progress: waiting for host"}
    updates = updates_of(tracker, play("Provision | Create"), result("runner_on_failed"), STATS, note, note)
    assert [(update.kind, update.stage, update.ok) for update in [*updates, *tracker.close()]] == [
        ("begin", "provision", True), ("end", "provision", False),
        ("begin", "gather", True), ("progress", "gather", True), ("progress", "gather", True), ("end", "gather", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "ok"),
    [
        ([result()], True),
        ([result("runner_on_failed")], False),
        ([result("runner_on_failed", ignore_errors=True)], True),
        ([result("runner_on_unreachable")], False),
    ],
)
def test_the_end_of_a_stage_shows_whether_it_failed(events: list[Mapping[str, Any]], ok: bool) -> None:
    tracker = Tracker(Clock())
    assert updates_of(tracker, play("a | b"), task("T"), *events, STATS)[-1].ok is ok


def test_an_interrupted_stage_ends_as_failed_once() -> None:
    tracker = Tracker(Clock())
    tracker.feed(play("a | b"))
    assert [(update.kind, update.ok) for update in tracker.close()] == [("begin", True), ("end", False)]
    assert tracker.close() == []


@pytest.mark.parametrize(
    ("event", "stdout", "expected"),
    [
        ("verbose", "progress: building kubelet", Update("progress", "", "building kubelet")),
        ("verbose", "progress: a long\r\nline", Update("progress", "", "a long line")),
        ("warning", "[WARNING]: something\r\nwrapped", Update("warning", "", "something wrapped")),
        ("verbose", "anything else", None),
    ],
)
def test_messages_of_ansible_become_notes_and_warnings(event: str, stdout: str, expected: Update | None) -> None:
    assert Tracker(Clock()).feed({"event": event, "stdout": stdout}) == ([expected] if expected else [])


def test_a_censored_result_yields_no_update() -> None:
    tracker = Tracker(Clock())
    assert tracker.feed({"event": "runner_on_ok", "event_data": {"res": "hidden"}}) == []


def test_plain_lines_have_no_control_characters() -> None:
    stream = io.StringIO()
    sink = progress.Plain(stream, Clock())
    shown = progress.Shown(sink)
    for event in (play("bundle | Fetch it"), {"event": "verbose", "stdout": "progress: kubelet"}, task("T"), STATS):
        shown.event(event)
    shown.close()
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0] == "bundle      Fetch it"
    assert lines[1] == "bundle      kubelet"
    assert lines[2].startswith("bundle      done in ")
    assert len(lines) == 3


def test_plain_output_names_the_current_task_after_a_pause() -> None:
    clock, stream = Clock(), io.StringIO()
    sink = progress.Plain(stream, clock)
    tracker = Tracker(clock)
    updates_of(tracker, play("prepare | Check"), task("Sleep"))
    sink.tick(tracker)
    assert stream.getvalue() == ""
    clock.now += 31
    sink.tick(tracker)
    sink.tick(tracker)
    assert stream.getvalue() == "prepare     current task: Sleep\n"


def test_json_lines_have_one_object_per_update() -> None:
    stream = io.StringIO()
    shown = progress.Shown(progress.JsonLines(stream))
    for event in (play("a | b"), task("T"), result("runner_on_failed"), STATS):
        shown.event(event)
    shown.close()
    documents = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert documents[0] == {"type": "stage", "stage": "a", "state": "begin", "message": "b"}
    assert documents[1] == {"type": "task", "stage": "a", "name": "T"}
    assert documents[2] == {**documents[2], "type": "stage", "state": "end", "ok": False, "changed": 0}


@pytest.mark.parametrize(
    ("terminal", "env", "plain"),
    [
        (True, {"TERM": "xterm"}, False),
        (False, {"TERM": "xterm"}, True),
        (True, {"TERM": "dumb"}, True),
        (True, {}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, False),
    ],
)
def test_output_is_plain_without_a_capable_terminal(terminal: bool, env: dict[str, str], plain: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    assert progress.is_plain(Stream(), env) is plain


@pytest.mark.parametrize(("seconds", "text"), [(0.84, "0.8s"), (59.94, "59.9s"), (60, "1m00s"), (185.4, "3m05s")])
def test_a_duration_is_short(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
