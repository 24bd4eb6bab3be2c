"""Collect what an environment knows of itself when a run of it failed, beside the run's log."""

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
# A run of these alone looks at the nodes or ends them: whoever wants more asks for it.
LOOKING = frozenset({"validate", "down"})
# A snapshot that is refused has changed nothing, and says why.
REFUSED = frozenset({"snapshot_unhealthy", "snapshot_encrypted"})


def is_wanted(folder: Path, summary: Mapping[str, Any], reason: str = "") -> bool:
    """Return whether the run of the state folder ``folder`` failed in a way that its nodes may explain."""
    stages = {stage["name"] for stage in summary["stages"]}
    failed = summary["exit"] in EXITS and reason not in REFUSED
    return failed and not stages <= LOOKING and (folder / "network.yml").exists()


def gather(
    folder: Path,
    run_dir: Path,
    copy_to: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write the archive into the run's folder, and a copy into ``copy_to``; return the archive's path.

    Raises DevenvError and OSError.
    """
    # The run's own time may be over: it is the failure.
    deadline.clear()
    done = archive.collect(archive.source_of(folder), run_dir / NAME, progress=progress)
    if copy_to is not None:
        # Keeps the mode: what was redacted is still nobody else's.
        shutil.copy(done.path, copy_to / NAME)
    return done.path
