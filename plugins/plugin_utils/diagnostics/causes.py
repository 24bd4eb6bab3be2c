"""Why did a cluster not come up? Find the first cause in the nodes' logs, by the ordered patterns of
configs/causes.yml.

What is further up there makes what is below happen: a full disk lets etcd fail, a missing etcd the API server, a
missing API server everything else. So the first row that any node has evidence for is the cause.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, state
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote

FILE = paths.CONFIGS / "causes.yml"
PROGRAM = "node.report"
SECONDS = 12.0
SHOWN = 300
EVERYWHERE = ("containerd", "kubelet", "kubeadm", "pod:")
# A node that starts logs much that is over a moment later.
RECENT = 45.0
OLDEST = 300.0
# Failures of which the nodes know more than the task that failed: those of the stages from kubernetes on.
EXITS = frozenset({5, 6, 7, 8})


@dataclass(frozen=True)
class Cause:
    """A row of the catalogue. ``sources`` are those of module_utils/node/report.py (``pod:etcd`` for containers of
    pods whose name begins so); ``recent``: only a line of the last ``RECENT`` seconds counts.
    """

    id: str
    meaning: str
    advice: str
    patterns: tuple[re.Pattern[str], ...]
    sources: tuple[str, ...]
    recent: bool

    def matches(self, line: Line) -> bool:
        """Return whether the line is evidence of this cause."""
        of_pod = "/" in line.source
        allowed = any(
            (of_pod and line.source.startswith(source.removeprefix("pod:")))
            if source.startswith("pod:")
            else line.source == source
            for source in self.sources
        )
        fresh = not self.recent or (line.age is not None and line.age <= RECENT)
        return allowed and fresh and any(pattern.search(line.text) for pattern in self.patterns)


@dataclass(frozen=True)
class Line:
    """One line of evidence; ``age`` in seconds, None when it has none."""

    host: str
    source: str
    text: str
    age: float | None = None


@dataclass(frozen=True)
class Found:
    """The cause, and the line that says so."""

    cause: Cause
    line: Line

    def __str__(self) -> str:
        text = " ".join(redact(self.line.text).split())
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
        return f"{self.line.host}: {self.cause.meaning} ({self.line.source}: {shown})"


@cache
def catalogue() -> tuple[Cause, ...]:
    """Return all causes, the most basic one first."""
    rows = data.read(FILE)
    return tuple(
        Cause(
            row["id"],
            row["meaning"],
            row["advice"],
            tuple(re.compile(entry["pattern"]) for entry in row["patterns"]),
            tuple(row.get("sources", EVERYWHERE)),
            row.get("recent", False),
        )
        for row in rows
    )


def first(lines: Iterable[Line], oldest: float = OLDEST) -> Found | None:
    """The first row of the catalogue that has evidence, with the oldest line that counts; None without any. What is
    older than ``oldest`` seconds may have been put right since.
    """
    kept = [line for line in lines if line.age is None or line.age <= oldest]
    for cause in catalogue():
        matching = [line for line in kept if cause.matches(line)]
        if matching:
            # The oldest: what it brought about came later.
            return Found(cause, max(matching, key=lambda line: line.age if line.age is not None else -1.0))
    return None


def lines_of(answers: Mapping[str, remote.Answer]) -> list[Line]:
    """Evidence of all nodes that answered; one that did not says nothing."""
    found = []
    for name, answer in answers.items():
        for source, rows in (answer.data.get("sources") or {}).items():
            found += [Line(name, source, str(text), age) for age, text in rows]
    return found


def look(folder: Path, oldest: float = OLDEST, seconds: float = SECONDS) -> Found | None:
    """Ask all nodes of the environment with this state folder. Raises DevenvError ``state_broken``."""
    resolved = state.read_profile(folder)
    network = state.read_network(folder)
    if resolved is None or network is None:
        return None
    hosts = inventory.build(resolved, network, folder)["hosts"]
    targets = [
        remote.target(name, variables, own_connection=True, patience=5)
        for name, variables in hosts.items()
        if variables.get("ansible_host") and variables.get("devenv_cluster")
    ]
    source = remote.program(PROGRAM, "main", {"part": "evidence", "timeout": int(seconds)})
    return first(lines_of(remote.ask_all(targets, source, seconds)), oldest)
