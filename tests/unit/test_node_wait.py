"""Waiting on a node, on a clock that only sleeping moves."""

from __future__ import annotations

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node import wait


class Time:
    def __init__(self) -> None:
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    @property
    def clock(self) -> wait.Clock:
        return wait.Clock(lambda: self.seconds, self.sleep)


def test_the_first_true_answer_ends_it() -> None:
    time, answers = Time(), iter(["", "", "yes", "no"])
    assert wait.until(lambda: next(answers), 10, lambda: TimeoutError("late"), 2, time.clock) == "yes"
    assert time.seconds == 4


def test_it_asks_once_at_least_and_never_sleeps_past_the_deadline() -> None:
    time, asked = Time(), list[float]()
    with pytest.raises(TimeoutError, match="late"):
        wait.until(lambda: asked.append(time.seconds), 5, lambda: TimeoutError("late"), 2, time.clock)
    assert asked == [0, 2, 4]
    asked.clear()
    assert wait.poll(lambda: asked.append(time.seconds), 0, 2, time.clock) is None
    assert asked == [4]


def test_what_the_check_raises_is_not_held_back() -> None:
    def check() -> bool:
        raise ValueError("for good")

    with pytest.raises(ValueError, match="for good"):
        wait.until(check, 10, lambda: TimeoutError("late"), clock=Time().clock)
