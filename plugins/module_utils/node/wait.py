"""Wait for a condition, up to a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Clock(NamedTuple):
    """The time functions that waiting uses; tests replace them. ``now`` and deadlines are monotonic, ``wall`` is Unix
    time.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    wall: Callable[[], float] = time.time


REAL = Clock()


def poll(check: Callable[[], T], deadline: float, pause: float = 0.5, clock: Clock = REAL) -> T:
    """Call ``check`` every ``pause`` s, at least once; return its first true result, or the last at the deadline."""
    while True:
        result = check()
        if result or clock.now() + pause > deadline:
            return result
        clock.sleep(pause)


def until(
    check: Callable[[], T | None],
    deadline: float,
    describe: Callable[[], Exception],
    pause: float = 0.5,
    clock: Clock = REAL,
) -> T:
    """Return the first true result of ``check``. Raises what ``describe`` returns if the deadline comes first."""
    result = poll(check, deadline, pause, clock)
    if not result:
        raise describe()
    return result
