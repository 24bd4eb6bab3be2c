"""Runs of an environment: those in its state directory, and those kept after it is removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import runs as environment_runs

from devenv import errors

LOG = "log.txt"  # in a run's directory, written by the record callback


def runs(name: str) -> list[dict[str, Any]]:
    """Return summaries of the runs, oldest first. A killed run has only ``run`` and ``folder``."""
    return [
        {"run": _id(entry), "folder": str(entry), **(files.read_json(entry / "summary.json", dict) or {})}
        for entry in environment_runs.kept(paths.environment(name))
    ]


def log_of(name: str, run: str | None = None) -> Path:
    """Return the log of a run (its id or its directory's name), by default of the newest. Raises NotFound."""
    entries = environment_runs.kept(paths.environment(name))
    logs = [entry / LOG for entry in entries if run in (None, entry.name, _id(entry)) and (entry / LOG).is_file()]
    if not logs:
        raise errors.NotFound(
            f"{name} has no log{f' of the run {run}' if run else ''}", advice=f"devenv logs -n {name} --runs"
        )
    return logs[-1]


def _id(folder: Path) -> str:
    return folder.name.partition("-")[2]
