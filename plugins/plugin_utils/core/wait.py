"""Wait for a condition, within a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    check: Callable[[], T],
    deadline: float,
    describe: Callable[[], Exception] | None = None,
    *,
    pause: float | Callable[[], float] = 0.1,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call ``check`` every ``pause`` seconds, for the last time at ``deadline``, and return its first true value.

    ``pause`` can be a function that returns the seconds. ``deadline`` is a time of ``clock``; once it has passed, raise
    the result of ``describe`` or, without one, return the last value.
    """
    while not (value := check()):
        remaining = deadline - clock()
        if remaining <= 0:
            if describe is None:
                return value
            raise describe()
        sleep(min(pause() if callable(pause) else pause, remaining))
    return value


def on_change(report: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that calls ``report`` with each text that differs from the one before."""
    last = ""

    def pass_on(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            report(text)

    return pass_on
