"""Fixtures of the trials: each leaves the cluster as it was, running and valid."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.commands import Typed


@pytest.fixture(scope="package")
def trial(user: Typed, new_name: Callable[[str], str]) -> Iterator[str]:
    """The name of a running aio environment."""
    name = new_name("trial")
    user.devenv("up", "--profile", "aio", "--name", name)
    yield name
    user.devenv("down", "--name", name)
