"""The time limit of a test, in the process of the test."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Seconds that the fixtures of a test have to finish when its time is over.
PATIENCE = 15.0


class Limit:
    """Fails a test where it is when it has run for ``seconds`` (0: no limit).

    It uses the timer of SIGALRM unless someone else does: pytest-timeout or the test itself. Without the timer, such as
    in a thread, there is no limit. ``changed`` is called with the remaining seconds when they begin to count, and with
    None when they are paused.
    """

    def __init__(self, seconds: float, changed: Callable[[float | None], None] = lambda _: None) -> None:
        self._seconds = self._left = seconds
        self._changed = changed
        self._began = 0.0
        self._previous: Any = None
        self._counts = False

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time of one phase of the test."""
        self._start()
        try:
            yield
        finally:
            self.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of the block."""
        counts = self._counts
        self.stop()
        if counts:
            self._changed(None)
        try:
            yield
        finally:
            if counts:
                self._start()

    def _start(self) -> None:
        if not self._seconds:
            return
        self._counts = True
        self._changed(max(0.0, self._left))
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and not signal.getitimer(signal.ITIMER_REAL)[0]:
            self._began = time.monotonic()
            self._previous = signal.signal(signal.SIGALRM, self._fail)
            signal.setitimer(signal.ITIMER_REAL, self._left if self._left > 0 else PATIENCE)

    def stop(self) -> None:
        """Count no further time of the present phase."""
        if not self._counts:
            return
        self._counts = False
        if signal.getsignal(signal.SIGALRM) == self._fail:
            self._left -= time.monotonic() - self._began
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._previous)

    def _fail(self, *_: object) -> None:
        pytest.fail(f"the test took longer than {self._seconds:g} s")
