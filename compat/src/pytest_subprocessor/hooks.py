"""Hooks of pytest_subprocessor that devenv does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from devenv.testing.session import Worker


@pytest.hookspec(firstresult=True)
def pytest_build_items_iter(session: pytest.Session, workers: Sequence[Worker]) -> object:
    """Called before the first test, in each process of pytest that runs tests; the result is not used."""


@pytest.hookspec(firstresult=True)
def pytest_get_next_item(session: pytest.Session, worker: Worker) -> pytest.Item | None:
    """Not called; a warning names each implementation."""
