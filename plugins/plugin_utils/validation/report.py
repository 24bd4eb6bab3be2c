"""The results of a validation: rows, JUnit, the record of the last full validation."""

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
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Check

# In the run's folder.
FILE = "checks.json"


class Row(TypedDict):
    """A check in JSON; ``seen`` is what passed, or what is missing."""

    cluster: str
    name: str
    ok: bool
    seconds: float
    seen: str
    warnings: list[str]


@dataclass
class Report:
    """All checks, and the error that lists what is missing; None if all passed."""

    checks: list[Check] = field(default_factory=list)
    failure: DevenvError | None = None


def rows(cluster: str, checks: Sequence[Check]) -> list[Row]:
    """Return one row per check, redacted."""
    return [
        Row(
            cluster=cluster,
            name=check.name,
            ok=check.ok,
            seconds=check.seconds,
            seen=redact(check.seen),
            warnings=[redact(text) for text in check.finding.warnings],
        )
        for check in checks
    ]


def combined(reports: Mapping[str, Report]) -> DevenvError | None:
    """Return one error for all clusters that are not ready, None if all are."""
    failures = [report.failure for report in reports.values() if report.failure]
    if len(failures) < 2:
        return failures[0] if failures else None
    return DevenvError("validate_failed", "\n".join(str(failure) for failure in failures))


def write_rows(folder: Path, all_rows: Sequence[Row]) -> None:
    """Write the rows of all clusters into the run's folder, from which the command reads them."""
    files.write(folder / FILE, json.dumps(list(all_rows), indent=1) + "\n")


def write_junit(path: Path, environment: str, all_rows: Sequence[Row]) -> None:
    """Write a JUnit document with one case per check. Raises OSError."""
    names = list(dict.fromkeys(row["cluster"] for row in all_rows))
    cases = []
    for row in all_rows:
        name = row["name"] if len(names) < 2 else f"{row['cluster']}: {row['name']}"
        if row["ok"]:
            cases.append(junit.Case(name, row["seconds"], "passed"))
        else:
            text = "\n".join([row["seen"], *(f"warning: {warning}" for warning in row["warnings"])])
            cases.append(junit.Case(name, row["seconds"], "failed", "check_failed", row["seen"], text))
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    suite = names[0] if len(names) == 1 else environment
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(junit.render(f"devenv.{environment}.validate", suite, began, cases))


# --- the record of the last full validation --------------------------------------------------------------------------


def record_of(cluster: Cluster) -> Path:
    """Return the path of the record of a cluster's last full validation."""
    return cluster.kubeconfig.with_name("validated.json")


def needs_probes(mode: str, *, changed: bool, record: Path) -> bool:
    """Return whether to run probe pods. ``auto``: if the run changed something or the last full validation failed."""
    if mode != "auto":
        return mode == "always"
    return changed or (files.read_json(record, dict) or {}).get("ok") is not True


def write_record(record: Path, ok: bool, checks: Sequence[Check]) -> None:
    """Record a full or failed validation, for ``needs_probes``."""
    content = {"ok": ok, "time": int(time.time()), "checks": rows(record.parent.name, checks)}
    files.write(record, json.dumps(content, indent=1) + "\n")
