"""List the certificates of an environment; all nodes are queried over ssh in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import node_checks


@dataclass(frozen=True)
class Row:
    """A certificate, or a node that did not answer (``trouble``). ``end`` is ISO 8601, ``days`` the days until then."""

    node: str
    path: str
    end: str
    days: int
    trouble: str = ""


def query(hosts: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Return one row per certificate of the nodes ``hosts`` (name to inventory variables), the first to expire first.

    Bare nodes have no certificates.
    """
    targets = [remote.target(name, values) for name, values in hosts.items() if values.get("devenv_cluster")]
    return rows(node_checks.query_health(targets), datetime.now(UTC))


def rows(answers: Mapping[str, remote.Answer], now: datetime) -> list[Row]:
    """Return the rows of the nodes' answers, sorted by expiry."""
    certificates = []
    for name, answer in answers.items():
        if answer.trouble:
            certificates.append(Row(name, "", "", 0, answer.trouble))
            continue
        for path, end in (answer.data.get("certificates") or {}).items():
            certificates.append(Row(name, path, end, (datetime.fromisoformat(end) - now).days))
    return sorted(certificates, key=lambda row: (row.end, row.node, row.path))
