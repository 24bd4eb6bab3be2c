"""The time limit of a test, in this process."""

from __future__ import annotations

import signal
import time

import pytest

from devenv.testing import limit


def timer() -> float:
    """Return the seconds until the next alarm, or 0."""
    return signal.getitimer(signal.ITIMER_REAL)[0]


def test_the_limit_covers_all_phases_and_leaves_time_for_fixtures() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    test = limit.Limit(60)
    with test.counted():
        time.sleep(0.1)
    with test.counted():
        assert 0 < timer() <= 59.9
    test = limit.Limit(0.5)
    with pytest.raises(pytest.fail.Exception, match=r"the test took longer than 0\.5 s"), test.counted():
        time.sleep(600)
    with test.counted():
        assert 0.5 < timer() <= limit.PATIENCE
    assert timer() == 0
    assert signal.getsignal(signal.SIGALRM) == handler


def test_a_pause_does_not_count_and_is_reported() -> None:
    changes: list[float | None] = []
    test = limit.Limit(60, changes.append)
    with test.counted():
        with test.paused():
            assert timer() == 0
        assert timer() > 0
    # No phase of the test: after an interruption.
    with test.paused():
        pass
    assert timer() == 0
    assert changes == [60, None, pytest.approx(60, abs=30)]


def test_a_limit_that_a_debugger_stopped_does_not_begin_again_after_a_pause() -> None:
    test = limit.Limit(60)
    with test.counted():
        test.stop()
        with test.paused():
            pass
        assert timer() == 0


def test_the_timer_of_another_is_left_alone() -> None:
    changes: list[float | None] = []
    test = limit.Limit(60, changes.append)
    signal.setitimer(signal.ITIMER_REAL, 500)
    try:
        with test.counted(), test.paused():
            assert timer() > 60
        assert timer() > 60
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    # A process that runs the test in another one counts nevertheless.
    assert changes == [60, None, 60]
