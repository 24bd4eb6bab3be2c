"""Supervision of a running ansible-playbook: its events in one queue, signals, the time limit, and its end."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Protocol

from devenv.runs import outcome as outcomes
from devenv.runs.outcome import RunOutcome

# Seconds beyond --timeout. The collection enforces the time limit and reports what is missing; this is the fallback.
GRACE = 30.0
GATHER_SECONDS = 60.0  # plugin_utils/diagnostics/archive.py, TIMEOUT
PATIENCE = 10.0  # seconds between SIGINT to ansible and killing it

Events = queue.SimpleQueue[tuple[str, Any]]


class Watcher(Protocol):
    """Observer of a run: gets each event of ansible-runner, a tick several times a second, and the end."""

    def event(self, event: Mapping[str, Any]) -> None:
        return

    def tick(self) -> None:
        return

    def end(self) -> None:
        return


class Silent(Watcher):
    """A watcher that ignores everything."""


class Control:
    """Stops the run: sends SIGINT to ansible, and lets ansible-runner kill its process group on a second request or if
    ansible does not end within PATIENCE.
    """

    def __init__(self, deadline: float | None) -> None:
        self.pid = 0
        self.signal = 0
        self.timed_out = False
        self._deadline = deadline
        self._requested = 0.0
        self._cancel = threading.Event()

    def cancelled(self) -> bool:
        return self._cancel.is_set()

    def interrupt(self, number: int) -> None:
        self.signal = self.signal or number
        self._stop()

    def tasks_are_over(self) -> None:
        """Extend the deadline: after a failure the collection gathers, even if no time is left."""
        if self._deadline:
            self._deadline = max(self._deadline, time.monotonic() + GATHER_SECONDS + GRACE)

    def tick(self) -> None:
        now = time.monotonic()
        if self._requested and now > self._requested + PATIENCE:
            self._cancel.set()
        if self._deadline and now > self._deadline and not self._requested:
            self.timed_out = True
            self._stop()

    def _stop(self) -> None:
        if self._requested or not self.pid:
            self._cancel.set()
        self._requested = self._requested or time.monotonic()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGINT)


def follow(events: Events, control: Control, watcher: Watcher, outcome: RunOutcome) -> None:
    """Handle the events of a run until it is done, and collect its outcome."""
    output: deque[str] = deque(maxlen=400)
    while True:
        try:
            kind, value = events.get(timeout=0.2)
        except queue.Empty:
            kind, value = "tick", None
        if kind == "event":
            control.pid = control.pid or int(value.get("pid") or 0)
            output.extend(str(value.get("stdout") or "").splitlines())
            outcomes.apply(outcome, value)
            watcher.event(value)
            if value.get("event") == "playbook_on_stats":
                control.tasks_are_over()
        elif kind == "signal":
            control.interrupt(value)
        elif kind == "done":
            code, error = value
            return outcomes.finish(outcome, code, error, list(output))
        control.tick()
        watcher.tick()


@contextlib.contextmanager
def signals(events: Events) -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into items of the queue inside this context; in other threads than the main, do
    nothing. A SIGHUP that the caller ignores (nohup) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def put(number: int, frame: FrameType | None) -> None:
        events.put(("signal", number))

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = (signal.SIGINT, signal.SIGTERM, *(() if ignored else (signal.SIGHUP,)))
    before = {number: signal.signal(number, put) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
