"""Gather an environment's diagnostics after a failed run, into the run's folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import deadline
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import archive

NAME = "gather.tar.gz"
# Exit codes of stages that had nodes; an unexpected failure (1) may have had some.
EXITS = frozenset({1, 3, 4, 5, 6, 7, 8})
# A run with no other stages only inspects or removes nodes.
NOT_GATHERED = frozenset({"validate", "down"})
# A refused snapshot has changed nothing, and its message states the cause.
REFUSED = frozenset({"snapshot_unhealthy", "snapshot_encrypted"})


def is_due(folder: Path, summary: Mapping[str, Any], reason: str = "") -> bool:
    """Return whether the run of the state directory ``folder`` failed in a way that its nodes may explain."""
    stages = {stage["name"] for stage in summary["stages"]}
    failed = summary["exit"] in EXITS and reason not in REFUSED
    return failed and not stages <= NOT_GATHERED and (folder / "network.yml").exists()


def gather(
    folder: Path,
    run_dir: Path,
    copy_to: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write the archive into the run's folder, and a copy into ``copy_to``; return the archive's path.

    Raises DevenvError and OSError.
    """
    # The run may have failed because its time was over; gathering has a time of its own.
    deadline.clear()
    path = archive.collect(archive.source_of(folder), run_dir / NAME, progress=progress).path
    if copy_to is not None:
        # With its mode 0600: redacted or not, it is for its owner only.
        shutil.copy(path, copy_to / NAME)
    return path
