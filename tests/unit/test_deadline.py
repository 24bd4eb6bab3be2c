from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import deadline
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError


@pytest.fixture(autouse=True)
def no_deadline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("DEVENV_UNTIL", raising=False)
    yield
    deadline.clear()


def test_without_a_deadline_every_limit_stays() -> None:
    deadline.begin(0)
    deadline.check("anything")
    assert deadline.remaining(300) == 300


def test_the_remaining_time_shrinks_and_bounds_each_limit() -> None:
    deadline.begin(100, gone=40)
    assert 59 < deadline.remaining(300) <= 60
    assert deadline.remaining(5) == 5


def test_the_first_limit_counts_until_it_is_cleared() -> None:
    deadline.begin(100)
    deadline.begin(1000)
    assert deadline.remaining(5000) <= 100
    deadline.clear()
    assert deadline.remaining(5000) == 5000


def test_a_run_that_was_late_from_the_start_has_no_time() -> None:
    deadline.begin(1, gone=5)
    assert deadline.remaining(10) == 0
    with pytest.raises(DevenvError, match="the time limit of this run, 1 s, passed before stage validate") as caught:
        deadline.check("stage validate")
    assert caught.value.reason.id == "time_over"


def test_the_remaining_time_passes() -> None:
    deadline.begin(0.05)
    deadline.check("the first")
    time.sleep(0.06)
    with pytest.raises(DevenvError):
        deadline.check("the second")
