"""Record a run for the callback ``devenv.lab.record``: events, log, summary, failure, JUnit. Does not need Ansible.

In the run's folder: ``events.jsonl`` (one line per event: ``{time, event, stage, play, task, host, status, seconds,
changed}``), ``log.txt``, and at the end ``summary.json``, ``junit.xml`` and, if the run failed, ``failure.json``. All
text is redacted.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, junit, reasons
from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact
from ansible_collections.devenv.lab.plugins.plugin_utils.records.selection import stage_of

EVENTS = "events.jsonl"
LOG = "log.txt"

# Keys of a result that contain output of a program, in the order in which the log shows them.
_TEXTS = ("msg", "stderr", "stdout", "module_stderr", "module_stdout", "exception", "log")
_TEXT_LIMIT = 60_000
_KEPT_LINES = 20_000

# A skipped task was reached: its condition was false.
_SUCCESSFUL = ("ok", "changed", "skipped")

# Actions of ansible-core that work on the controller and call no module.
_CONTROLLER_ACTIONS = [
    "add_host", "assert", "debug", "fail", "group_by", "import_playbook", "import_role", "import_tasks",
    "include_role", "include_tasks", "include_vars", "meta", "pause", "raw", "reboot", "script", "set_fact",
    "set_stats", "validate_argument_spec",
]  # fmt: skip
_NO_MODULE = frozenset(f"ansible.builtin.{name}" for name in _CONTROLLER_ACTIONS)


@dataclass
class Stage:
    """Counts of one stage. ``result`` is done, skipped (no host ran a task), failed or interrupted; empty while
    the stage runs. ``hosts`` are those on which a task succeeded.
    """

    name: str
    began: float
    seconds: float = 0.0
    changed: int = 0
    tasks: int = 0
    module_calls: int = 0
    result: str = ""
    hosts: set[str] = field(default_factory=set)

    def summary(self) -> dict[str, Any]:
        """Return the stage's entry in summary.json."""
        return {key: value for key, value in vars(self).items() if key not in ("began", "hosts")}


@dataclass(frozen=True)
class Outcome:
    """Result of a task on a host. ``status`` is ok, changed, skipped, ignored, failed or unreachable; ``rescuable``: a
    rescue section may handle the failure; ``file`` is path and line of the task.
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
    """A run and what it was given; ``planned`` are the stages of its plays, ``remaining`` is what it has not done of
    them, ``partial`` whether its options left out tasks or hosts.
    """

    run_id: str = ""
    environment: str = ""
    profile: str = ""
    command: str = ""
    planned: list[str] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)
    partial: bool = False


@dataclass(frozen=True)
class Report:
    """The summary, the failure (None if the run succeeded) and all documents by file name."""

    summary: dict[str, Any]
    failure: dict[str, Any] | None
    documents: dict[str, str]


class Recorder:
    """Records the events of a run in order. Until ``place`` sets the folder, lines are kept in memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, controller_actions: Iterable[str] = ()) -> None:
        self.run = Run()
        self.stages: list[Stage] = []
        self.failures: list[tuple[dict[str, Any], bool]] = []
        self.began = datetime.now(UTC)
        self.folder: Path | None = None
        self._clock = clock
        self._start = clock()
        self._play = ""
        self._controller = _NO_MODULE | frozenset(controller_actions)
        self._waiting: deque[tuple[str, str]] = deque(maxlen=_KEPT_LINES)
        self._streams: dict[str, TextIO] = {}
        self.broken = ""
        # The first cause of the failure in the nodes' logs: ``{id, message, advice}``.
        self.cause: dict[str, str] = {}

    def now(self) -> float:
        """Return the time of the recorder's clock in seconds."""
        return self._clock()

    def seconds(self) -> float:
        """Return how long the run has lasted."""
        return self._clock() - self._start

    # -- events --

    def play(self, name: str) -> Stage | None:
        """Record that a play begins. Return the stage that ends with it, if any."""
        stage = stage_of(name)
        previous = None
        if stage and stage != self.stage:
            previous = self._close("done")
            self.stages.append(Stage(stage, self._clock()))
            self._event("stage", status="begun")
        self._play = redact(name)
        self._event("play")
        self._log(f"== {self._play}")
        return previous

    def task(self) -> None:
        """Record that a task begins, once for all its hosts."""
        if self.stages:
            self.stages[-1].tasks += 1

    def result(self, outcome: Outcome) -> None:
        """Record the result of a task on a host."""
        changed = outcome.status == "changed"
        if self.stages:
            stage = self.stages[-1]
            stage.changed += changed
            stage.module_calls += module_calls(outcome, self._controller)
            if outcome.status in _SUCCESSFUL and stage_of(self._play):
                stage.hosts.add(outcome.host)
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

    def reached(self) -> dict[str, set[str]]:
        """Return the hosts on which a task succeeded, by stage."""
        reached: dict[str, set[str]] = {}
        for stage in self.stages:
            reached.setdefault(stage.name, set()).update(stage.hosts)
        return reached

    @property
    def stage(self) -> str:
        """Name of the current stage; empty before the first."""
        return self.stages[-1].name if self.stages else ""

    # -- writing --

    def place(self, folder: Path) -> None:
        """Write to ``folder`` from now on, kept lines first. A second call sets the folder's new path after a move."""
        moved = self.folder is not None
        self.folder = folder
        if moved:
            return
        for name, line in self._waiting:
            self._write(name, line)
        self._waiting.clear()

    def finish(self, *, ok: bool, interrupted: str = "") -> Report:
        """End the run and write its documents. ``interrupted`` is empty, or the id of a reason."""
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
            "complete": ok and not self.run.partial and not self.run.remaining,
            "remaining": self.run.remaining,
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
        """Add the path of the failed run's archive, or why there is none, to the log and failure.json."""
        text = f"gathered: {path}" if path else f"not gathered: {trouble}"
        self._log(f"!! {text}")
        more = {"gathered": str(path)} if path else {"gather_trouble": trouble}
        self._save("failure.json", _json({**(report.failure or {}), **more}))

    def log_text(self) -> str:
        """Return the log so far."""
        if self.folder is None:
            return "".join(line for name, line in self._waiting if name == LOG)
        try:
            return (self.folder / LOG).read_text()
        except OSError:
            return ""

    def _cause(self, interrupted: str) -> dict[str, Any]:
        """Return the failure that ended the run: the first one that was not rescued."""
        if interrupted:
            reason = reasons.catalogue()[interrupted]
            return _failure(self.stage, reason, reason.meaning)
        if self.failures:
            final, _rescuable = min(self.failures, key=lambda pair: pair[1])
            return explained(final, self.cause)
        reason = reasons.catalogue()["unexpected"]
        return _failure(self.stage, reason, "the run stopped without a failed task before its end")

    def _close(self, result: str) -> Stage | None:
        """End the current stage, if there is one."""
        if not self.stages or self.stages[-1].result:
            return None
        stage = self.stages[-1]
        stage.seconds = round(self._clock() - stage.began, 3)
        stage.result = "skipped" if result == "done" and not stage.hosts else result
        self._event("stage", status=stage.result, seconds=stage.seconds, changed=stage.changed)
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
                # Line-buffered, so that the record of a killed run is complete.
                self._streams[name] = open(self.folder / name, "a", buffering=1, opener=_private)  # noqa: SIM115
            self._streams[name].write(line)
        except OSError as error:
            self.broken = str(error)

    def _save(self, name: str, text: str) -> None:
        # A folder that was removed is not recreated.
        if self.folder is None or not self.folder.is_dir():
            return
        try:
            files.write(self.folder / name, text)
        except OSError as error:
            self.broken = str(error)


def module_calls(outcome: Outcome, controller: Container[str] = _NO_MODULE) -> int:
    """Return the number of module calls in a result: one per item and try; none for a result that is skipped,
    unreachable, or of an action on the controller.
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
    """Return the messages and output in a result, redacted, as (key, text); of a loop also those of failed items."""
    pairs = [(key, _text(part.get(key))) for part in [data, *_failed_items(data)] for key in _TEXTS]
    return list(dict.fromkeys(pair for pair in pairs if pair[1]))


def failure(stage: str, outcome: Outcome) -> dict[str, Any]:
    """Return the content of failure.json: ``{stage, reason, exit, message, advice, host, task, file}``. Without a known
    reason in the result, the stage determines it.
    """
    parts = [outcome.data, *_failed_items(outcome.data)]
    with_reason = next((part for part in parts if part.get("devenv_reason") in reasons.catalogue()), None)
    source = with_reason or parts[-1]
    reason = reasons.catalogue()[with_reason["devenv_reason"]] if with_reason else reasons.of_stage(stage)
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
    """Return a failure with its first cause, if known: appended to the message, with its advice, and as ``cause``."""
    if not cause:
        return failed
    message = f"{failed['message']}; first cause: {cause['message']}"
    return {**failed, "message": message, "advice": cause["advice"], "cause": dict(cause)}


def _message(data: Mapping[str, Any]) -> str:
    """Return the message of a failed result as one line; a generic message of Ansible with the last line of output."""
    message = " ".join(_text(data.get("msg")).split()) or "failed without a message"
    if message in ("non-zero return code", "failed without a message") or message.startswith("MODULE FAILURE"):
        outputs = [_text(data.get(key)).splitlines() for key in ("stderr", "module_stderr", "stdout", "module_stdout")]
        last = next((lines[-1].strip() for lines in outputs if lines), "")
        message = f"{message}: {last}" if last else message
    return message[:2000]


def _failed_items(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    items = data.get("results")
    if not isinstance(items, list):
        return []
    return [item for item in items if isinstance(item, Mapping) and (item.get("failed") or item.get("unreachable"))]


def _text(value: Any) -> str:
    """Return ``value`` as text, redacted and cut."""
    if value in (None, "", "(traceback unavailable)"):
        return ""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    # Before cutting, since part of a secret is not recognized.
    text = redact(text)
    left_out = len(text) - _TEXT_LIMIT
    return text if left_out <= 0 else f"[{left_out} characters left out]\n{text[-_TEXT_LIMIT:]}"


def _case(stage: Stage, cause: Mapping[str, Any] | None) -> junit.Case:
    if stage.result == "skipped":
        return junit.Case(stage.name, 0, "skipped", message="no task was selected")
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
