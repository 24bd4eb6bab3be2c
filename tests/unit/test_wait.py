"""Waiting within a deadline, by a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait


class Clock:
    """A clock that only ``sleep`` moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def values(*items: str) -> Iterator[str]:
    yield from items
    while True:
        yield ""


def test_the_first_true_value_is_returned() -> None:
    clock, checks = Clock(), values("", "", "ready")
    assert wait.until(lambda: next(checks), 110, pause=2, clock=clock, sleep=clock.sleep) == "ready"
    assert clock.slept == [2, 2]


def test_the_last_check_is_made_at_the_deadline() -> None:
    clock, checks = Clock(), values("", "", "", "late")
    assert wait.until(lambda: next(checks), 105, pause=2, clock=clock, sleep=clock.sleep) == "late"
    assert clock.slept == [2, 2, 1]


def test_a_deadline_that_passes_raises_the_error_that_describes_it() -> None:
    clock, checks = Clock(), values()
    with pytest.raises(TimeoutError, match="at 103"):
        wait.until(
            lambda: next(checks),
            103,
            lambda: TimeoutError(f"at {clock.now:g}"),
            pause=2,
            clock=clock,
            sleep=clock.sleep,
        )
    assert clock.slept == [2, 1]


def test_without_a_description_the_last_value_is_returned() -> None:
    clock, checks = Clock(), values()
    assert wait.until(lambda: next(checks), 100, clock=clock, sleep=clock.sleep) == ""
    assert clock.slept == [], "one check is made even when the deadline has passed"


def test_a_text_is_reported_once_until_it_changes() -> None:
    seen: list[str] = []
    report = wait.on_change(seen.append)
    for text in ("a", "a", "b", "a"):
        report(text)
    assert seen == ["a", "b", "a"]
