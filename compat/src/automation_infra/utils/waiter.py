"""Functions that wait for a condition. All raise TimeoutError."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait

T = TypeVar("T")


def wait_for_predicate(predicate: Callable[[], T], timeout: float = 10, interval: float = 1.0) -> T:
    """Return the first true result."""
    return wait.until(
        predicate, time.monotonic() + timeout, lambda: TimeoutError("Predicate timed out"), pause=interval
    )


def wait_for_predicate_nothrow(
    predicate: Callable[[], T], timeout: float = 10, interval: float = 1.0, exception_cls: type[Exception] = Exception
) -> T:
    """Return the first true result; exceptions count as false."""
    errors: list[str] = []

    def check() -> T | None:
        try:
            return predicate()
        except exception_cls as error:
            errors.append(f"{type(error).__name__}: {error}")
            return None

    def describe() -> TimeoutError:
        return TimeoutError("\n".join(["Predicate timed out", *dict.fromkeys(errors)]))

    value = wait.until(check, time.monotonic() + timeout, describe, pause=interval)
    assert value is not None
    return value


def wait_nothrow(operation: Callable[[], T], timeout: float = 10, interval: float = 1.0) -> T:
    """Return the result of the first call that raises nothing."""
    return wait_for_predicate_nothrow(lambda: (operation(),), timeout, interval)[0]


def wait_for_predicates(*operations: Callable[[], object], timeout: float = 60) -> None:
    """Call each operation until it raises nothing, one after the other."""
    for operation in operations:
        wait_nothrow(operation, timeout)
