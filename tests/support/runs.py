"""A replacement of the wrapper's runner, for tests of everything above it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from devenv.runs.outcome import RunOutcome
from devenv.runs.runner import INVENTORY, NO_OPTIONS, Options


class Request(NamedTuple):
    """The arguments of a run."""

    playbook: str
    variables: Mapping[str, Any]
    options: Options


class Runs:
    """Records the requested runs, and returns the outcomes that a test provides; by default, runs succeed."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.outcomes: list[RunOutcome] = []

    def __call__(
        self, playbook: str, variables: Mapping[str, Any], options: Options = NO_OPTIONS, inventory: Path = INVENTORY
    ) -> RunOutcome:
        self.requests.append(Request(playbook, variables, options))
        return self.outcomes.pop(0) if self.outcomes else RunOutcome("run1", changed=3, seconds=1.5, results=5)
