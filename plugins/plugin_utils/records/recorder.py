"""What the callback ``devenv.lab.record`` keeps of a run: events, log, summary, failure, JUnit. Knows nothing of
Ansible.

In the run's folder: ``events.jsonl`` (a line an event: ``{time, event, stage, play, task, host, status, seconds,
changed}``), ``log.txt``, and at the end ``summary.json``, ``junit.xml`` and, when the run failed, ``failure.json``.
Every text goes through ``redact``.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, junit, reasons
from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact

EVENTS = "events.jsonl"
LOG = "log.txt"

# Keys of a result that carry a program's words, in the order in which a person wants to read them.
_TEXTS = ("msg", "stderr", "stdout", "module_stderr", "module_stdout", "exception", "log")
_TEXT_LIMIT = 60_000
_KEPT_UNPLACED = 20_000

# Actions of ansible-core that do their work on the controller and call no module.
_NO_MODULE = frozenset(
    f"ansible.builtin.{name}"
    for name in [
        "add_host",
        "assert",
        "debug",
        "fail",
        "group_by",
        "import_playbook",
        "import_role",
        "import_tasks",
        "include_role",
        "include_tasks",
        "include_vars",
        "meta",
        "pause",
        "raw",
        "reboot",
        "script",
        "set_fact",
        "set_stats",
        "validate_argument_spec",
    ]
)
_STAGE = re.compile(r"^\s*([A-Za-z_]+)\s*\|")


@dataclass
class Stage:
    """Counts of one stage. ``result`` is done, failed or interrupted once it is over."""

    name: str
    began: float
    seconds: float = 0.0
    changed: int = 0
    tasks: int = 0
    module_calls: int = 0
    result: str = ""

    def summary(self) -> dict[str, Any]:
        """The stage in summary.json."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            "changed": self.changed,
            "tasks": self.tasks,
            "module_calls": self.module_calls,
            "result": self.result,
        }


@dataclass(frozen=True)
class Outcome:
    """Result of a task on a host. ``status`` is ok, changed, skipped, ignored, failed or unreachable; ``rescuable``
    says that a rescue section may make it good; ``file`` is path and line of the task.
    """

    host: str
    task: str
    action: str
    status: str
    data: Mapping[str, Any]
    seconds: float = 0.0
    rescuable: bool = False
    file: str = ""


@dataclass
class Run:
    """What is known of the run besides its results."""

    run_id: str = ""
    environment: str = ""
    profile: str = ""
    command: str = ""
    planned: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What ``finish`` found: the summary, the failure (None when the run did what it should), and all documents by
    file name.
    """

    summary: dict[str, Any]
    failure: dict[str, Any] | None
    documents: dict[str, str]


def stage_of(play: str) -> str:
    """The stage in a play's name (``<Stage> | <what it does>``), empty when it names none."""
    found = _STAGE.match(play)
    stage = found.group(1).lower() if found else ""
    return stage if stage in reasons.stages() else ""


class Recorder:
    """Takes a run's happenings in their order; writes once ``place`` has said where, keeps them until then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, own_actions: Iterable[str] = ()) -> None:
        self.run = Run()
        self.stages: list[Stage] = []
        self.failures: list[tuple[dict[str, Any], bool]] = []
        self.began = datetime.now(UTC)
        self.folder: Path | None = None
        self._clock = clock
        self._start = clock()
        self._play = ""
        self._controller = _NO_MODULE | frozenset(own_actions)
        self._waiting: deque[tuple[str, str]] = deque(maxlen=_KEPT_UNPLACED)
        self._streams: dict[str, TextIO] = {}
        self.broken = ""
        # What else is known of the failure: ``{message, advice}``, and more for failure.json.
        self.cause: dict[str, str] = {}

    def now(self) -> float:
        """Seconds of the recorder's clock."""
        return self._clock()

    def seconds(self) -> float:
        """How long the run has lasted."""
        return self._clock() - self._start

    # -- happenings --

    def play(self, name: str) -> Stage | None:
        """A play begins. Return the stage that this ended, if any."""
        stage = stage_of(name)
        ended = None
        if stage and stage != self.stage:
            ended = self._close("done")
            self.stages.append(Stage(stage, self._clock()))
            self._event("stage", status="begun")
        self._play = redact(name)
        self._event("play")
        self._log(f"== {self._play}")
        return ended

    def task(self) -> None:
        """A task begins (on however many hosts)."""
        if self.stages:
            self.stages[-1].tasks += 1

    def result(self, outcome: Outcome) -> None:
        """A task ended on a host."""
        changed = outcome.status == "changed"
        if self.stages:
            stage = self.stages[-1]
            stage.changed += changed
            stage.module_calls += module_calls(outcome, self._controller)
        if outcome.status in ("failed", "unreachable"):
            self.failures.append((failure(self.stage, outcome), outcome.rescuable))
        self._event(
            "result",
            task=redact(outcome.task),
            host=outcome.host,
            status=outcome.status,
            seconds=round(outcome.seconds, 3),
            changed=changed,
        )
        self._log(f"{outcome.status:<11} {outcome.host:<16} {redact(outcome.task)} ({outcome.seconds:.2f} s)")
        if outcome.status in ("changed", "failed", "unreachable", "ignored"):
            for key, text in texts(outcome.data):
                self._log("\n".join(f"    {key}: {line}" for line in text.splitlines()))

    @property
    def stage(self) -> str:
        """Name of the stage that runs, empty before the first."""
        return self.stages[-1].name if self.stages else ""

    # -- writing --

    def place(self, folder: Path) -> None:
        """Write to ``folder`` from now on, what was kept first. A second call says where the folder was moved to."""
        moved = self.folder is not None
        self.folder = folder
        if moved:
            return
        for name, line in self._waiting:
            self._write(name, line)
        self._waiting.clear()

    def finish(self, *, ok: bool, interrupted: str = "") -> Report:
        """The run is over: write what is written at the end. ``interrupted`` is empty, or the id of a reason."""
        cause = None if ok else self._cause(interrupted)
        self._close("done" if ok else "interrupted" if interrupted else "failed")
        summary = {
            "run": self.run.run_id,
            "exit": cause["exit"] if cause else 0,
            "changed": sum(stage.changed for stage in self.stages),
            "seconds": round(self._clock() - self._start, 3),
            "began": self.began.isoformat(timespec="seconds"),
            "environment": self.run.environment,
            "profile": self.run.profile,
            "command": redact(self.run.command),
            "tasks": sum(stage.tasks for stage in self.stages),
            "module_calls": sum(stage.module_calls for stage in self.stages),
            "stages": [stage.summary() for stage in self.stages],
        }
        self._event("end", status="done" if ok else "failed", seconds=summary["seconds"], changed=summary["changed"])
        if cause:
            self._log(f"!! {cause['stage'] or 'run'} failed ({cause['reason']}): {cause['message']}")
        documents = {"summary.json": _json(summary), "junit.xml": self._junit(cause)}
        if cause:
            documents["failure.json"] = _json(cause)
        for name, text in documents.items():
            self._save(name, text)
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        return Report(summary, cause, documents)

    def gathered(self, report: Report, path: Path | None, trouble: str = "") -> None:
        """Note in log and failure.json where the archive of the failed run is, or why there is none."""
        text = f"gathered: {path}" if path else f"not gathered: {trouble}"
        self._log(f"!! {text}")
        more = {"gathered": str(path)} if path else {"gather_trouble": trouble}
        self._save("failure.json", _json({**(report.failure or {}), **more}))

    def log_text(self) -> str:
        """The whole log so far."""
        if self.folder is None:
            return "".join(line for name, line in self._waiting if name == LOG)
        try:
            return (self.folder / LOG).read_text()
        except OSError:
            return ""

    def _cause(self, interrupted: str) -> dict[str, Any]:
        """The failure that ended the run: the first that nothing could make good."""
        if interrupted:
            reason = reasons.catalogue()[interrupted]
            return _failure(self.stage, reason, reason.meaning)
        final = [entry for entry, rescuable in self.failures if not rescuable] or [
            entry for entry, rescuable in self.failures
        ]
        if final:
            return explained(final[0], self.cause)
        reason = reasons.catalogue()["unexpected"]
        return _failure(self.stage, reason, "the run ended without a failed task and without its end")

    def _close(self, result: str) -> Stage | None:
        """End the stage that runs, if one does."""
        if not self.stages or self.stages[-1].result:
            return None
        stage = self.stages[-1]
        stage.seconds = self._clock() - stage.began
        stage.result = result
        self._event("stage", status=result, seconds=round(stage.seconds, 3), changed=stage.changed)
        return stage

    def _junit(self, cause: Mapping[str, Any] | None) -> str:
        cases = [_case(stage, cause) for stage in self.stages]
        reached = {stage.name for stage in self.stages}
        cases += [
            junit.Case(name, 0, "skipped", message="not reached")
            for name in dict.fromkeys(self.run.planned)
            if name not in reached
        ]
        if cause and not any(case.result in ("failed", "error") for case in cases):
            cases.insert(0, junit.Case("begin", 0, "failed", cause["reason"], cause["message"], cause["advice"]))
        began = self.began.strftime("%Y-%m-%dT%H:%M:%S")
        return junit.render(f"devenv.{self.run.environment}", self.run.profile or "devenv", began, cases)

    def _event(self, event: str, **more: Any) -> None:
        line = {"time": _now(), "event": event, "stage": self.stage, "play": self._play, **more}
        self._write(EVENTS, json.dumps(line, ensure_ascii=False) + "\n")

    def _log(self, text: str) -> None:
        self._write(LOG, f"{_now()} {text}\n")

    def _write(self, name: str, line: str) -> None:
        if self.folder is None:
            self._waiting.append((name, line))
            return
        if self.broken:
            return
        try:
            if name not in self._streams:
                # Line by line, so that a killed run leaves what it did.
                self._streams[name] = open(self.folder / name, "a", buffering=1, opener=_private)  # noqa: SIM115
            self._streams[name].write(line)
        except OSError as error:
            self.broken = str(error)

    def _save(self, name: str, text: str) -> None:
        # A folder that is gone is not made again.
        if self.folder is None or not self.folder.is_dir():
            return
        try:
            files.write(self.folder / name, text)
        except OSError as error:
            self.broken = str(error)


def module_calls(outcome: Outcome, controller: Container[str] = _NO_MODULE) -> int:
    """How many module calls a result stands for: one an item and try; none when skipped, unreachable, or done on the
    controller.
    """
    if outcome.status in ("skipped", "unreachable") or outcome.action in controller:
        return 0
    items = outcome.data.get("results")
    if isinstance(items, list) and items and all(isinstance(item, Mapping) for item in items):
        return sum(_tries(item) for item in items if not item.get("skipped"))
    return _tries(outcome.data)


def _tries(data: Mapping[str, Any]) -> int:
    tries = data.get("attempts", 1)
    return tries if isinstance(tries, int) and tries > 0 else 1


def texts(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a result has to say, redacted, as (key, text); of a loop, what its failed items say."""
    found = []
    for part in [data, *_failed_items(data)]:
        for key in _TEXTS:
            text = _text(part.get(key))
            if text and (key, text) not in found:
                found.append((key, text))
    return found


def failure(stage: str, outcome: Outcome) -> dict[str, Any]:
    """The form of failure.json: ``{stage, reason, exit, message, advice, host, task, file}``, and ``cause`` where nodes
    told one. Without a known reason the stage decides.
    """
    parts = [outcome.data, *_failed_items(outcome.data)]
    known = next((part for part in parts if part.get("devenv_reason") in reasons.catalogue()), None)
    source = known or parts[-1]
    reason = reasons.catalogue()[known["devenv_reason"]] if known else reasons.of_stage(stage)
    message = _message(source)
    if outcome.status == "unreachable":
        message = f"does not answer: {message}"
    return _failure(
        stage,
        reason,
        message,
        advice=_text(source.get("devenv_advice")),
        host=outcome.host,
        task=redact(outcome.task),
        file=outcome.file,
    )


def _failure(
    stage: str, reason: reasons.Reason, message: str, advice: str = "", host: str = "", task: str = "", file: str = ""
) -> dict[str, Any]:
    return {
        "stage": stage,
        "reason": reason.id,
        "exit": reasons.stages().get(stage, reason.exit) if reason.id == "time_over" else reason.exit,
        "message": message,
        "advice": advice or reason.advice,
        "host": host,
        "task": task,
        "file": file,
    }


def explained(failed: dict[str, Any], cause: Mapping[str, str]) -> dict[str, Any]:
    """A failure with what else is known: the cause at the end of its message, the cause's advice, the whole of it as
    ``cause``.
    """
    if not cause:
        return failed
    message = f"{failed['message']}; first cause: {cause['message']}"
    return {**failed, "message": message, "advice": cause["advice"], "cause": dict(cause)}


def _message(data: Mapping[str, Any]) -> str:
    """One line of a failed result: its message, and where that is ansible's "non-zero return code", the program's
    last words.
    """
    message = " ".join(_text(data.get("msg")).split()) or "failed without a message"
    if message in ("non-zero return code", "failed without a message") or message.startswith("MODULE FAILURE"):
        words = [_text(data.get(key)).splitlines() for key in ("stderr", "module_stderr", "stdout", "module_stdout")]
        last = next((lines[-1].strip() for lines in words if lines), "")
        message = f"{message}: {last}" if last else message
    return message[:2000]


def _failed_items(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    items = data.get("results")
    if not isinstance(items, list):
        return []
    return [item for item in items if isinstance(item, Mapping) and (item.get("failed") or item.get("unreachable"))]


def _text(value: Any) -> str:
    """Redacted first, cut afterwards: half a secret is not found any more."""
    if value in (None, "", "(traceback unavailable)"):
        return ""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = redact(text)
    left_out = len(text) - _TEXT_LIMIT
    return text if left_out <= 0 else f"[{left_out} characters left out]\n{text[-_TEXT_LIMIT:]}"


def _case(stage: Stage, cause: Mapping[str, Any] | None) -> junit.Case:
    if stage.result == "done" or cause is None:
        return junit.Case(stage.name, stage.seconds, "passed")
    place = ", ".join(cause[key] for key in ("host", "task", "file") if cause[key])
    kind = "failed" if stage.result == "failed" and cause["reason"] != "unexpected" else "error"
    return junit.Case(
        stage.name, stage.seconds, kind, cause["reason"], cause["message"], f"{place}\n{cause['advice']}".strip()
    )


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
