"""Runs of an environment: those in its state folder, and those kept after it is gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv import errors

LOG = "log.txt"  # of a run's folder, as the record callback names it


def folders(name: str) -> list[Path]:
    """Run folders of the environment, the oldest first."""
    places = (paths.home() / "history" / name, paths.environment(name) / "runs")
    found = [entry for place in places if place.is_dir() for entry in place.iterdir() if entry.is_dir()]
    return sorted(found, key=lambda entry: entry.name)


def runs(name: str) -> list[dict[str, Any]]:
    """Summaries of the runs, the oldest first; of a run that was killed only ``run`` and ``folder`` are known."""
    return [{"run": entry.name.partition("-")[2], "folder": str(entry), **_summary(entry)} for entry in folders(name)]


def _summary(folder: Path) -> dict[str, Any]:
    try:
        data = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def log_of(name: str, run: str | None = None) -> Path:
    """The log of a run (id, or folder's name), by default of the newest. Raises NotFound."""
    found = [entry for entry in folders(name) if run is None or run in (entry.name, entry.name.partition("-")[2])]
    logs = [entry / LOG for entry in found if (entry / LOG).is_file()]
    if not logs:
        raise errors.NotFound(
            f"{name} has no log{f' of a run {run}' if run else ''}", advice=f"devenv logs -n {name} --runs"
        )
    return logs[-1]
