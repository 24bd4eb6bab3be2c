"""Find the first cause of a failure in the nodes' logs, by the ordered patterns of configs/causes.yml.

Rows cause the rows below them: a full disk makes etcd fail, a failed etcd the API server, a failed API server
everything else. So the first row for which any node has evidence is the cause.
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
# A starting node logs many errors that are resolved a moment later.
RECENT = 45.0
OLDEST = 300.0
# Exit codes of the stages from kubernetes on: there, logs of nodes explain more than the failed task.
EXITS = frozenset({5, 6, 7, 8})


@dataclass(frozen=True)
class Cause:
    """A row of the catalogue. ``sources`` are those of module_utils/node/report.py (``pod:etcd``: containers of pods
    whose name begins with etcd); ``recent``: only lines of the last ``RECENT`` seconds count.
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
class FirstCause:
    """The first cause, and the log line that is its evidence."""

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


def first(lines: Iterable[Line], oldest: float = OLDEST) -> FirstCause | None:
    """Return the first row of the catalogue that has evidence, and its oldest line; None without evidence. Lines older
    than ``oldest`` seconds are ignored: the problem may have been fixed since.
    """
    kept = [line for line in lines if line.age is None or line.age <= oldest]
    for cause in catalogue():
        matching = [line for line in kept if cause.matches(line)]
        if matching:
            # The oldest, because its consequences were logged later.
            return FirstCause(cause, max(matching, key=lambda line: line.age if line.age is not None else -1.0))
    return None


def lines_of(answers: Mapping[str, remote.Answer]) -> list[Line]:
    """Return the log lines of all nodes that answered."""
    return [
        Line(name, source, str(text), age)
        for name, answer in answers.items()
        for source, rows in (answer.data.get("sources") or {}).items()
        for age, text in rows
    ]


def find(folder: Path, oldest: float = OLDEST, seconds: float = SECONDS) -> FirstCause | None:
    """Return the first cause in the logs of all nodes of an environment. Raises DevenvError ``state_broken``."""
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
