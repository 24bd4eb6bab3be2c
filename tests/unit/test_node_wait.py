"""Waiting, with a clock that only sleeping moves."""

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


def test_the_first_true_result_ends_the_wait() -> None:
    time, answers = Time(), iter(["", "", "yes", "no"])
    assert wait.until(lambda: next(answers), 10, lambda: TimeoutError("late"), 2, time.clock) == "yes"
    assert time.seconds == 4


def test_the_check_runs_at_least_once_and_no_sleep_passes_the_deadline() -> None:
    time, calls = Time(), list[float]()
    with pytest.raises(TimeoutError, match="late"):
        wait.until(lambda: calls.append(time.seconds), 5, lambda: TimeoutError("late"), 2, time.clock)
    assert calls == [0, 2, 4]
    calls.clear()
    assert wait.poll(lambda: calls.append(time.seconds), 0, 2, time.clock) is None
    assert calls == [4]


def test_errors_of_the_check_are_raised() -> None:
    def check() -> bool:
        raise ValueError("permanent")

    with pytest.raises(ValueError, match="permanent"):
        wait.until(check, 10, lambda: TimeoutError("late"), clock=Time().clock)
