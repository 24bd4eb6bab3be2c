"""List the certificates of an environment: every node is queried over ssh, all at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import node_checks

ASK_SECONDS = 20.0


@dataclass(frozen=True)
class Row:
    """A certificate, or a node that did not answer (``trouble``). ``end`` is ISO 8601, ``days`` the days until then."""

    node: str
    path: str
    end: str
    days: int
    trouble: str = ""


def ask(hosts: Mapping[str, Mapping[str, Any]], now: datetime | None = None) -> list[Row]:
    """Return a row for each certificate of the nodes ``hosts`` (name to inventory variables), those that end first at
    the top. Bare nodes have none.
    """
    source = remote.program(node_checks.REPORT, "main", {"part": "health", "timeout": int(ASK_SECONDS)})
    targets = [remote.target(name, own) for name, own in hosts.items() if own.get("devenv_cluster")]
    return rows(remote.ask_all(targets, source, ASK_SECONDS), now or datetime.now(UTC))


def rows(answers: Mapping[str, remote.Answer], now: datetime) -> list[Row]:
    """Return the rows of answers."""
    certificates = []
    for name, answer in answers.items():
        if answer.trouble:
            certificates.append(Row(name, "", "", 0, answer.trouble))
            continue
        for path, end in (answer.data.get("certificates") or {}).items():
            certificates.append(Row(name, path, end, (datetime.fromisoformat(end) - now).days))
    return sorted(certificates, key=lambda row: (row.end, row.node, row.path))
