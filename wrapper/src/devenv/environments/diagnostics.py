"""The archive that gather writes, and gathering after a run that exceeded its time limit."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import after_failure

from devenv import errors
from devenv.runs.playbook import RunResult


@dataclass(frozen=True)
class Gathered:
    """The archive, and one row per part: ``{name, files, bytes, seconds, trouble}``."""

    path: Path
    parts: Sequence[dict[str, Any]]
    result: RunResult


def parts(archive: Path) -> list[dict[str, Any]]:
    """Return the rows of the archive's own index."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith("/index.json") and member.name.count("/") == 1:
                stream = tar.extractfile(member)
                return list(json.load(stream)["parts"]) if stream else []
    return []


def after_timeout(name: str, error: errors.Error, artifacts: Path | None) -> None:
    """Gather after a run that exceeded its time limit, and record the archive in ``error``. Other failed runs gather on
    their own. A failure here leaves the run's failure unchanged.
    """
    folder = paths.environment(name)
    if error.reason != "time_over" or error.gathered or error.gather_trouble or error.log is None:
        return
    if error.exit_code not in after_failure.EXITS or not (folder / "network.yml").exists():
        return
    run_dir = error.log.parent
    copies = next(iter(artifacts.glob(f"*-{run_dir.name.partition('-')[2]}")), None) if artifacts else None
    try:
        error.gathered = after_failure.gather(folder, run_dir, copies)
    except (Exception, KeyboardInterrupt) as trouble:
        error.gather_trouble = f"{type(trouble).__name__}: {trouble}"
