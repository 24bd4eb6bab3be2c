"""Wait for something, up to a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Clock(NamedTuple):
    """Time as waiting needs it; a test gives its own. ``now`` and deadlines are monotonic, ``wall`` is Unix time."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    wall: Callable[[], float] = time.time


REAL = Clock()


def poll(check: Callable[[], T], deadline: float, pause: float = 0.5, clock: Clock = REAL) -> T:
    """Ask ``check`` every ``pause`` s, once at least, and return its first true answer, or its last one when the
    deadline comes first.
    """
    while True:
        answer = check()
        if answer or clock.now() + pause > deadline:
            return answer
        clock.sleep(pause)


def until(
    check: Callable[[], T | None],
    deadline: float,
    describe: Callable[[], Exception],
    pause: float = 0.5,
    clock: Clock = REAL,
) -> T:
    """Return the first true answer of ``check``. Raises what ``describe`` returns when the deadline comes first."""
    answer = poll(check, deadline, pause, clock)
    if not answer:
        raise describe()
    return answer
