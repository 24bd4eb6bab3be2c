"""What a run's events mean to whoever looks on, and three ways to show it: a terminal, plain lines, JSON lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from ansible_collections.devenv.lab.plugins.plugin_utils.core import progress

SEPARATOR = " | "
_WARNING = "[WARNING]: "
_GATHER = "Gather | Collect what nodes, clusters and this host tell"
_CHECKS = "Validating arguments against arg spec"  # tasks that ansible adds before each role
_HEARTBEAT = 30.0  # seconds of silence after which plain output says what it is waiting for


@dataclass(frozen=True)
class Update:
    """One thing worth showing. ``kind`` is begin or end (of a stage), task, note (progress of a long action), warning
    or line (ansible's own output, with -v). ``seconds`` and ``changed`` belong to ``end``.
    """

    kind: str
    stage: str
    text: str = ""
    seconds: float = 0.0
    changed: int = 0
    ok: bool = True

    def document(self) -> dict[str, Any]:
        """The update as one object of ``--json``."""
        head: dict[str, Any] = {"stage": self.stage}
        if self.kind in ("begin", "end"):
            document = {"type": "stage", **head, "state": self.kind, "message": self.text}
            if self.kind == "end":
                document |= {"ok": self.ok, "seconds": round(self.seconds, 3), "changed": self.changed}
            return document
        names = {
            "task": ("task", "name"),
            "note": ("progress", "message"),
            "warning": ("warning", "message"),
            "line": ("output", "message"),
        }
        kind, key = names[self.kind]
        return {"type": kind, **head, key: self.text}


class Tracker:
    """Turns events of ansible-runner into Updates. The name of a play is ``<Stage> | <what it does>``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = 0.0
        self._changed = 0
        self._failed = False
        self._tasks_are_over = False
        self.stage = ""
        self.task = ""

    def feed(self, event: Mapping[str, Any]) -> list[Update]:
        """The Updates that follow from one event."""
        name = str(event.get("event"))
        data = event.get("event_data") or {}
        if name == "playbook_on_play_start":
            return self._play(str(data.get("name") or data.get("play") or ""))
        if name in ("playbook_on_task_start", "playbook_on_handler_task_start"):
            self.task = str(data.get("task") or "")
            return [Update("task", self.stage, self.task)]
        if name in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable"):
            self._result(name, data)
            return self._warnings(data)
        if name == "playbook_on_stats":
            self._tasks_are_over = True
            return self._end_stage()
        return (
            self._talk(str(event.get("stdout") or "")) if name in ("verbose", "warning", "error", "deprecated") else []
        )

    def close(self) -> list[Update]:
        """The end of a stage that no event told of: the run was interrupted, or it has gathered."""
        self._failed = not self._tasks_are_over
        return self._end_stage()

    def _play(self, name: str) -> list[Update]:
        stage, what = stage_of(name), name.partition(SEPARATOR)[2]
        if stage in ("", self.stage):
            return []
        ended = self._end_stage()
        self.stage, self._began, self._changed, self._failed = stage, self._clock(), 0, False
        return [*ended, Update("begin", stage, what)]

    def _end_stage(self) -> list[Update]:
        if not self.stage:
            return []
        update = Update(
            "end", self.stage, seconds=self._clock() - self._began, changed=self._changed, ok=not self._failed
        )
        self.stage = self.task = ""
        return [update]

    def _warnings(self, data: Mapping[str, Any]) -> list[Update]:
        found = result_of(data).get("warnings")
        return (
            [Update("warning", self.stage, " ".join(str(text).split())) for text in found]
            if isinstance(found, list)
            else []
        )

    def _result(self, name: str, data: Mapping[str, Any]) -> None:
        self._changed += bool(result_of(data).get("changed"))
        self._failed |= name == "runner_on_unreachable" or (
            name == "runner_on_failed" and not data.get("ignore_errors")
        )

    def _talk(self, text: str) -> list[Update]:
        # Ansible wraps what it says at the width of its terminal.
        joined = " ".join(text.split())
        for kind, mark in (("note", progress.MARK), ("warning", _WARNING)):
            if joined.startswith(mark):
                # After the last task, only what a failed run gathers makes progress.
                begun = self._play(_GATHER) if kind == "note" and self._tasks_are_over else []
                return [*begun, Update(kind, self.stage, joined.removeprefix(mark))]
        return []


def stage_of(play: str) -> str:
    """The stage in a play's name (``<Stage> | <what it does>``), empty when it names none."""
    stage, separator, _ = play.partition(SEPARATOR)
    return stage.strip().lower() if separator else ""


def result_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The task's result in an event's data; empty where there is none (with no_log it is text)."""
    result = data.get("res")
    return result if isinstance(result, dict) else {}


class Sink(Protocol):
    """Shows Updates."""

    def show(self, update: Update) -> None: ...

    def tick(self, tracker: Tracker) -> None: ...

    def close(self) -> None: ...


def duration(seconds: float) -> str:
    """``0.8s``, ``42.0s``, ``3m05s``"""
    return f"{seconds:.1f}s" if seconds < 60 else f"{int(seconds // 60)}m{int(seconds % 60):02d}s"


def _stage_line(update: Update) -> str:
    changed = f"  {update.changed} changed" if update.changed else ""
    return f"{update.stage:<11} {'done' if update.ok else 'FAILED'} in {duration(update.seconds)}{changed}"


class Plain:
    """Lines without any control character: for logs, pipes and TERM=dumb."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last = clock()

    def show(self, update: Update) -> None:
        text = {
            "begin": lambda: f"{update.stage:<11} {update.text}",
            "end": lambda: _stage_line(update),
            "note": lambda: f"{update.stage:<11} {update.text}",
            "warning": lambda: f"warning: {update.text}",
            "line": lambda: update.text,
        }.get(update.kind)
        if text is not None:
            self._say(text())

    def tick(self, tracker: Tracker) -> None:
        if tracker.task and self._clock() - self._last > _HEARTBEAT:
            self._say(f"{tracker.stage:<11} still at: {tracker.task}")

    def close(self) -> None:
        self._stream.flush()

    def _say(self, text: str) -> None:
        self._last = self._clock()
        print(text, file=self._stream, flush=True)


class Live:
    """Ended stages stay as lines; below them one line moves: stage, time, task or progress of the moment."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._stage = self._text = ""
        self._began = time.monotonic()
        self._live = RichLive(
            get_renderable=self._line,
            console=self._console,
            refresh_per_second=5,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _line(self) -> Any:
        from rich.text import Text

        text = (
            f"{self._stage:<11} {duration(time.monotonic() - self._began):>7}  {self._text}"
            if self._stage
            else "starting"
        )
        return Text(text, style="dim", no_wrap=True, overflow="ellipsis")

    def show(self, update: Update) -> None:
        if update.kind == "begin":
            self._stage, self._text, self._began = update.stage, update.text, time.monotonic()
        elif update.kind == "note" or (update.kind == "task" and not update.text.startswith(_CHECKS)):
            self._text = update.text
        elif update.kind == "end":
            self._stage = ""
            self._console.print(_stage_line(update), style=None if update.ok else "red")
        else:
            self._console.print(
                f"warning: {update.text}" if update.kind == "warning" else update.text,
                style="yellow" * (update.kind == "warning"),
            )

    def tick(self, tracker: Tracker) -> None:
        return

    def close(self) -> None:
        self._live.stop()


class JsonLines:
    """One object a line on stdout."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, update: Update) -> None:
        self.write(update.document())

    def write(self, document: Mapping[str, Any]) -> None:
        print(json.dumps(document, default=str), file=self._stream, flush=True)

    def tick(self, tracker: Tracker) -> None:
        return

    def close(self) -> None:
        self._stream.flush()


class Shown:
    """A runner.Watcher that gives what it is told to a Sink; with ``verbose`` ansible's own lines too."""

    def __init__(self, sink: Sink, *, verbose: bool = False) -> None:
        self.sink = sink
        self.tracker = Tracker()
        self._verbose = verbose

    def event(self, event: Mapping[str, Any]) -> None:
        text = str(event.get("stdout") or "").rstrip()
        if self._verbose and text.strip():
            from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact

            self.sink.show(Update("line", self.tracker.stage, redact(text)))
        for update in self.tracker.feed(event):
            if not (self._verbose and update.kind in ("note", "warning")):
                self.sink.show(update)

    def tick(self) -> None:
        self.sink.tick(self.tracker)

    def end(self) -> None:
        for update in self.tracker.close():
            self.sink.show(update)

    def close(self) -> None:
        self.end()
        self.sink.close()


def is_plain(stream: TextIO, env: Mapping[str, str] = os.environ) -> bool:
    """Whether nothing may move on ``stream``: no terminal, a dumb one, or NO_COLOR (https://no-color.org) set."""
    return not stream.isatty() or env.get("TERM", "dumb") == "dumb" or bool(env.get("NO_COLOR")) or bool(env.get("CI"))


def sink(*, as_json: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None) -> Sink:
    """The Sink that fits how the command was called."""
    if as_json:
        return JsonLines(stdout or sys.stdout)
    stream = stderr or sys.stderr
    return Plain(stream) if is_plain(stream) else Live(stream)
