"""An allocator that creates no environments and records its calls, for tests of the code around it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv.testing.allocators.base import Allocator
from devenv.testing.demand import Demand
from devenv.testing.errors import AllocationFailed
from devenv.testing.objects import BaseConfig, Cluster, Host, Named


@dataclass(frozen=True)
class Paper(Allocator):
    """Environments are folders. ``$PAPER_SECONDS`` is how long `up` takes, ``$PAPER_FAIL`` an error that it raises."""

    overrides: Mapping[str, Any] = field(default_factory=dict)
    hosts: Mapping[str, Any] | None = None

    def need(self, demand: Demand) -> int:
        return 1

    def up(self, name: str, demand: Demand, *, timeout: float | None, report: Callable[[str], None]) -> None:
        record("up", name)
        report("paper")
        time.sleep(float(os.environ.get("PAPER_SECONDS", "0")))
        if reason := os.environ.get("PAPER_FAIL"):
            raise AllocationFailed(reason)
        (folder() / name).mkdir(parents=True, exist_ok=True)
        record("made", name)

    def is_up(self, name: str) -> bool:
        return (folder() / name).is_dir()

    def down(self, name: str) -> None:
        record("down", name)
        if self.is_up(name):
            (folder() / name).rmdir()

    def describe(self, name: str, demand: Demand) -> BaseConfig:
        nodes = demand.node_names
        hosts = {host.name: Host(host.name, nodes[host.name], ("127.0.0.1",)) for host in demand.hosts}
        clusters = [
            Cluster(cluster.name, cluster.installer, Named({n: hosts[n] for n in cluster.hosts}), cluster.hosts[:1])
            for cluster in demand.clusters
        ]
        return BaseConfig(name, hosts.values(), clusters)


class Remote(Paper):
    """One that has all kinds of machines; it records what it gets about each host."""

    remote = True

    def up(self, name: str, demand: Demand, *, timeout: float | None, report: Callable[[str], None]) -> None:
        record("demand", json.dumps({host.name: dict(host.remote) for host in demand.hosts}))
        super().up(name, demand, timeout=timeout, report=report)


def folder() -> Path:
    """Return the folder of all environments."""
    return paths.home() / "paper"


def record(event: str, name: str) -> None:
    """Append an event (up, made or down) to the record."""
    path = paths.home() / "record"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(json.dumps([event, name]) + "\n")


def events(home: Path) -> list[tuple[str, str]]:
    """Return the recorded events and names."""
    path = home / "record"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []
