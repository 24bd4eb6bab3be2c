"""Where a test's machines come from.

An *allocator* makes environments and takes them down. What is there already (an environment, a file that lists
machines) is only looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv.testing.allocators.allocation import Allocation
from devenv.testing.demand import Demand
from devenv.testing.errors import AllocationFailed


class Allocator(Protocol):
    """Makes environments. Called from several processes; the caller sees to it that never two work on one name."""

    def need(self, demand: Demand) -> int:
        """Memory that the machines will use, in bytes."""

    def up(self, name: str, demand: Demand, *, timeout: float | None, say: Callable[[str], None]) -> None:
        """Make the environment, or finish it. Raises devenv.Error or AllocationFailed."""

    def is_up(self, name: str) -> bool:
        """Whether it was made whole once and is still there."""

    def down(self, name: str) -> None:
        """Take it down; once more is no error."""

    def describe(self, name: str, demand: Demand) -> Allocation:
        """The machines of an environment that is up."""

    def hold(self, name: str) -> None:
        """This process uses it from now on."""

    def close(self) -> None:
        """This process uses none any more."""


def folder(name: str) -> Path:
    """Where what tests know of the environment ``name`` is kept."""
    return paths.home() / "testing" / name


def pair(wanted: Sequence[str], there: Sequence[str]) -> dict[str, str]:
    """Which machine each host of a test is: the one of its own name, else in order those that are left, sorted.

    Both orders are the caller's words' alone, so that it is the same machine each time. Raises AllocationFailed when
    there are too few.
    """
    found = {name: name for name in wanted if name in there}
    rest = sorted(name for name in there if name not in found)
    missing = [name for name in wanted if name not in found]
    if len(missing) > len(rest):
        raise AllocationFailed(
            f"{len(wanted)} hosts are asked for, and there are {len(there)}: {', '.join(sorted(there))}"
        )
    return {name: found.get(name) or rest[missing.index(name)] for name in wanted}
