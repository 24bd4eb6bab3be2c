"""An allocator that makes no environments: it writes down what it was asked for. For tests of what is around it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv.testing import demand_profile
from devenv.testing.allocators.allocation import Allocation, ClusterFound, HostFound
from devenv.testing.demand import Demand
from devenv.testing.errors import AllocationFailed


@dataclass(frozen=True)
class Paper:
    """Environments are folders. ``$PAPER_SECONDS`` is how long one takes, ``$PAPER_FAIL`` why none can be made."""

    overrides: Mapping[str, Any] = field(default_factory=dict)
    hosts: Mapping[str, Any] | None = None

    def need(self, demand: Demand) -> int:
        return 1

    def up(self, name: str, demand: Demand, *, timeout: float | None, say: Callable[[str], None]) -> None:
        note("up", name)
        say("paper")
        time.sleep(float(os.environ.get("PAPER_SECONDS", "0")))
        if reason := os.environ.get("PAPER_FAIL"):
            raise AllocationFailed(reason)
        (folder() / name).mkdir(parents=True, exist_ok=True)
        note("made", name)

    def is_up(self, name: str) -> bool:
        return (folder() / name).is_dir()

    def down(self, name: str) -> None:
        note("down", name)
        if self.is_up(name):
            (folder() / name).rmdir()

    def describe(self, name: str, demand: Demand) -> Allocation:
        nodes = demand_profile.node_names(demand)
        found = [HostFound(host.name, nodes[host.name], ["127.0.0.1"]) for host in demand.hosts]
        grouped = [
            ClusterFound(one.name, one.name, one.installer, list(one.hosts), [one.hosts[0]]) for one in demand.clusters
        ]
        return Allocation("", name, "paper", found, grouped)

    def hold(self, name: str) -> None:
        return

    def close(self) -> None:
        return


def folder() -> Path:
    """Where environments of paper are."""
    return paths.home() / "paper"


def note(what: str, name: str) -> None:
    """Add a line to the story."""
    path = paths.home() / "story"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(json.dumps([what, name]) + "\n")


def story(home: Path) -> list[tuple[str, str]]:
    """What was asked of the allocator: (up, made or down, name)."""
    path = home / "story"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []
