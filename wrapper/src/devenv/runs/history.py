"""Runs of an environment: those in its state folder, and those kept after it is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import runs as environment_runs

from devenv import errors

LOG = "log.txt"  # of a run's folder, as the record callback names it


def folders(name: str) -> list[Path]:
    """Run folders of the environment, the oldest first."""
    return environment_runs.kept(paths.environment(name))


def runs(name: str) -> list[dict[str, Any]]:
    """Summaries of the runs, the oldest first; of a run that was killed only ``run`` and ``folder`` are known."""
    return [
        {
            "run": entry.name.partition("-")[2],
            "folder": str(entry),
            **(files.read_json(entry / "summary.json", dict) or {}),
        }
        for entry in folders(name)
    ]


def log_of(name: str, run: str | None = None) -> Path:
    """The log of a run (id, or folder's name), by default of the newest. Raises NotFound."""
    found = [entry for entry in folders(name) if run is None or run in (entry.name, entry.name.partition("-")[2])]
    logs = [entry / LOG for entry in found if (entry / LOG).is_file()]
    if not logs:
        raise errors.NotFound(
            f"{name} has no log{f' of a run {run}' if run else ''}", advice=f"devenv logs -n {name} --runs"
        )
    return logs[-1]
