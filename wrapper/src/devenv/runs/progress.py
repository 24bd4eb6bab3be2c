"""What a run's events mean to an observer, and three formats to show it: a terminal, plain lines, JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from ansible_collections.devenv.lab.plugins.plugin_utils.core import progress

SEPARATOR = " | "
_WARNING = "[WARNING]: "
_GATHER = "Gather | Collect logs and state of nodes, clusters and this host"
_CHECKS = "Validating arguments against arg spec"  # tasks that ansible adds before each role
_HEARTBEAT = 30.0  # seconds of silence after which plain output names the current task


@dataclass(frozen=True)
class Update:
    """One thing to show. ``kind`` is begin or end (of a stage), task, progress (of a long action), warning or output
    (of Ansible, with -v). ``seconds``, ``changed`` and ``ok`` apply to ``end``.
    """

    kind: str
    stage: str
    text: str = ""
    seconds: float = 0.0
    changed: int = 0
    ok: bool = True

    def document(self) -> dict[str, Any]:
        """Return the update as one object of ``--json``."""
        if self.kind not in ("begin", "end"):
            return {"type": self.kind, "stage": self.stage, "name" if self.kind == "task" else "message": self.text}
        document: dict[str, Any] = {"type": "stage", "stage": self.stage, "state": self.kind, "message": self.text}
        if self.kind == "end":
            document |= {"ok": self.ok, "seconds": round(self.seconds, 3), "changed": self.changed}
        return document

    def line(self) -> str:
        """Return the update as one line of text."""
        if self.kind == "end":
            changed = f"  {self.changed} changed" if self.changed else ""
            return f"{self.stage:<11} {'done' if self.ok else 'FAILED'} in {duration(self.seconds)}{changed}"
        if self.kind == "warning":
            return f"warning: {self.text}"
        return self.text if self.kind == "output" else f"{self.stage:<11} {self.text}"


class Tracker:
    """Turns events of ansible-runner into Updates. The name of a play is ``<Stage> | <what it does>``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = 0.0
        self._changed = 0
        self._failed = False
        self._tasks_are_over = False
        # Shown with the first task, so that stages without one are not shown.
        self._pending: list[Update] = []
        self.stage = ""
        self.task = ""

    def feed(self, event: Mapping[str, Any]) -> list[Update]:
        """Return the Updates that follow from one event."""
        name = str(event.get("event"))
        data = event.get("event_data") or {}
        if name == "playbook_on_play_start":
            return self._play(str(data.get("name") or data.get("play") or ""))
        if name in ("playbook_on_task_start", "playbook_on_handler_task_start"):
            self.task = str(data.get("task") or "")
            return [*self._shown(), Update("task", self.stage, self.task)]
        if name in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable"):
            return [*self._shown(), *self._result(name, data)]
        if name == "playbook_on_stats":
            self._tasks_are_over = True
            return self._end_stage()
        if name in ("verbose", "warning", "error", "deprecated"):
            return self._message(str(event.get("stdout") or ""))
        return []

    def close(self) -> list[Update]:
        """Return the end of a stage that has no event of its own: the run was interrupted, or it has gathered."""
        self._failed = not self._tasks_are_over
        return [*(self._shown() if self._failed else []), *self._end_stage()]

    def _shown(self) -> list[Update]:
        begun, self._pending = self._pending, []
        return begun

    def _play(self, name: str) -> list[Update]:
        stage, action = stage_of(name), name.partition(SEPARATOR)[2]
        if not stage and self._pending:
            self._end_stage()
        if stage in ("", self.stage):
            return []
        ended = self._end_stage()
        self.stage, self._began, self._changed, self._failed = stage, self._clock(), 0, False
        self._pending = [Update("begin", stage, action)]
        return ended

    def _end_stage(self) -> list[Update]:
        if not self.stage or self._shown():
            self.stage = ""
            return []
        update = Update(
            "end", self.stage, seconds=self._clock() - self._began, changed=self._changed, ok=not self._failed
        )
        self.stage = self.task = ""
        return [update]

    def _result(self, name: str, data: Mapping[str, Any]) -> list[Update]:
        result = result_of(data)
        self._changed += bool(result.get("changed"))
        self._failed |= name == "runner_on_unreachable" or (
            name == "runner_on_failed" and not data.get("ignore_errors")
        )
        warnings = result.get("warnings")
        texts = warnings if isinstance(warnings, list) else []
        return [Update("warning", self.stage, " ".join(str(text).split())) for text in texts]

    def _message(self, text: str) -> list[Update]:
        # Ansible wraps messages at the width of its terminal.
        joined = " ".join(text.split())
        for kind, mark in (("progress", progress.MARK), ("warning", _WARNING)):
            if joined.startswith(mark):
                # After the last task, only the gathering of a failed run reports progress.
                ended = self._play(_GATHER) if kind == "progress" and self._tasks_are_over else []
                return [*ended, *self._shown(), Update(kind, self.stage, joined.removeprefix(mark))]
        return []


def stage_of(play: str) -> str:
    """Return the stage in a play's name (``<Stage> | <what it does>``), empty if there is none."""
    stage, separator, _ = play.partition(SEPARATOR)
    return stage.strip().lower() if separator else ""


def result_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the task's result in an event's data; empty if there is none (with no_log it is text)."""
    result = data.get("res")
    return result if isinstance(result, dict) else {}


def duration(seconds: float) -> str:
    """``0.8s``, ``42.0s``, ``3m05s``"""
    return f"{seconds:.1f}s" if seconds < 60 else f"{int(seconds // 60)}m{int(seconds % 60):02d}s"


class Sink:
    """Shows Updates on a stream; this one shows none."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def show(self, update: Update) -> None:
        """Show one update."""

    def tick(self, tracker: Tracker) -> None:
        """Handle the passage of time."""

    def close(self) -> None:
        """End the display."""


class Plain(Sink):
    """Lines without control characters: for logs, pipes and TERM=dumb."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._last = clock()

    def show(self, update: Update) -> None:
        if update.kind != "task":
            self._print(update.line())

    def tick(self, tracker: Tracker) -> None:
        if tracker.task and self._clock() - self._last > _HEARTBEAT:
            self._print(f"{tracker.stage:<11} current task: {tracker.task}")

    def _print(self, text: str) -> None:
        self._last = self._clock()
        print(text, file=self.stream, flush=True)


class Live(Sink):
    """One line per finished stage, and below them a live line: current stage, time, task or progress."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        super().__init__(stream)
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

        elapsed = duration(time.monotonic() - self._began)
        text = f"{self._stage:<11} {elapsed:>7}  {self._text}" if self._stage else "starting"
        return Text(text, style="dim", no_wrap=True, overflow="ellipsis")

    def show(self, update: Update) -> None:
        if update.kind == "begin":
            self._stage, self._text, self._began = update.stage, update.text, time.monotonic()
        elif update.kind == "progress" or (update.kind == "task" and not update.text.startswith(_CHECKS)):
            self._text = update.text
        elif update.kind == "end":
            self._stage = ""
            self._console.print(update.line(), style=None if update.ok else "red")
        elif update.kind != "task":
            self._console.print(update.line(), style="yellow" * (update.kind == "warning"))

    def close(self) -> None:
        self._live.stop()


class JsonLines(Sink):
    """One object per line."""

    def show(self, update: Update) -> None:
        print(json.dumps(update.document(), default=str), file=self.stream, flush=True)


class Shown:
    """A watcher that passes a run's Updates to a Sink; with ``verbose``, Ansible's output too."""

    def __init__(self, sink: Sink, *, verbose: bool = False) -> None:
        self.sink = sink
        self.tracker = Tracker()
        self._verbose = verbose

    def event(self, event: Mapping[str, Any]) -> None:
        text = str(event.get("stdout") or "").rstrip()
        if self._verbose and text.strip():
            from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact

            self._show(Update("output", self.tracker.stage, redact(text)))
        for update in self.tracker.feed(event):
            if not (self._verbose and update.kind in ("progress", "warning")):
                self._show(update)

    def _show(self, update: Update) -> None:
        """Show an update. A full disk or a closed terminal ends the display, not the run."""
        with self._unless_broken():
            self.sink.show(update)

    @contextlib.contextmanager
    def _unless_broken(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.sink = Sink(self.sink.stream)

    def tick(self) -> None:
        with self._unless_broken():
            self.sink.tick(self.tracker)

    def end(self) -> None:
        for update in self.tracker.close():
            self._show(update)

    def close(self) -> None:
        self.end()
        with self._unless_broken():
            self.sink.close()


def is_plain(stream: TextIO, env: Mapping[str, str] = os.environ) -> bool:
    """Whether output must not move: no terminal, a dumb one, CI, or NO_COLOR (https://no-color.org)."""
    return not stream.isatty() or env.get("TERM", "dumb") == "dumb" or bool(env.get("NO_COLOR")) or bool(env.get("CI"))


def sink(*, as_json: bool = False) -> Sink:
    """Return the Sink for the command's options and terminal."""
    if as_json:
        return JsonLines(sys.stdout)
    return Plain(sys.stderr) if is_plain(sys.stderr) else Live(sys.stderr)
