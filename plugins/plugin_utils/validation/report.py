"""What remains of a validation: rows for people and programs, JUnit, the record of the last full one."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, junit
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.wait import Check

# In a run's folder.
FILE = "checks.json"


class Row(TypedDict):
    """A check as data; ``seen`` is what passed, or what is missing."""

    cluster: str
    name: str
    ok: bool
    seconds: float
    seen: str
    warnings: list[str]


@dataclass
class Report:
    """Every check that ran, and the error that lists what is missing (None: ready)."""

    checks: list[Check] = field(default_factory=list)
    failure: DevenvError | None = None


def rows(cluster: str, checks: Sequence[Check]) -> list[Row]:
    """Return checks as data, without secrets."""
    return [
        Row(
            cluster=cluster,
            name=check.name,
            ok=check.ok,
            seconds=check.seconds,
            seen=redact(check.seen),
            warnings=[redact(text) for text in check.warnings],
        )
        for check in checks
    ]


def combined(reports: Mapping[str, Report]) -> DevenvError | None:
    """Return one error for all clusters that are not ready, None when all are."""
    failures = [report.failure for report in reports.values() if report.failure]
    if len(failures) < 2:
        return failures[0] if failures else None
    return DevenvError("validate_failed", "\n".join(str(failure) for failure in failures))


def write_rows(folder: Path, rows_of_all: Sequence[Row]) -> None:
    """Write the rows into a run's folder, where the command reads them."""
    files.write(folder / FILE, json.dumps(list(rows_of_all), indent=1) + "\n")


def write_junit(path: Path, environment: str, rows_of_all: Sequence[Row]) -> None:
    """Write a JUnit document with one case per check. Raises OSError."""
    names = list(dict.fromkeys(row["cluster"] for row in rows_of_all))
    cases = [
        junit.Case(
            row["name"] if len(names) < 2 else f"{row['cluster']}: {row['name']}",
            row["seconds"],
            "passed" if row["ok"] else "failed",
            "" if row["ok"] else "check_failed",
            "" if row["ok"] else row["seen"],
            "" if row["ok"] else "\n".join([row["seen"], *(f"warning: {text}" for text in row["warnings"])]),
        )
        for row in rows_of_all
    ]
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    suite = names[0] if len(names) == 1 else environment
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(junit.render(f"devenv.{environment}.validate", suite, began, cases))


# --- the record of the last full validation --------------------------------------------------------------------------


def record_of(cluster: Cluster) -> Path:
    """Return where the last full validation of a cluster is on record."""
    return cluster.kubeconfig.with_name("validated.json")


def needs_probes(mode: str, *, changed: bool, record: Path) -> bool:
    """Return whether probe pods are due. ``auto``: if the run changed something, or no full validation passed last."""
    if mode != "auto":
        return mode == "always"
    return changed or (files.read_json(record, dict) or {}).get("ok") is not True


def write_record(record: Path, ok: bool, checks: Sequence[Check]) -> None:
    """Record the last full validation, or any that failed, for ``needs_probes``."""
    content = {"ok": ok, "time": int(time.time()), "checks": rows(record.parent.name, checks)}
    files.write(record, json.dumps(content, indent=1) + "\n")
