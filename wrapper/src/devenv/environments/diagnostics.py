"""Collect what an environment knows of itself, when asked."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import after_failure

from devenv import errors, operations
from devenv.environments import names
from devenv.runs import runner

SECONDS = 60.0


@dataclass(frozen=True)
class Gathered:
    """The archive, and what became of each part: rows ``{name, files, bytes, seconds, trouble}``."""

    path: Path
    parts: Sequence[dict[str, Any]]
    result: operations.Result

    @property
    def troubles(self) -> list[str]:
        """A line for each part that did not give all."""
        return [f"{part['name']}: {part['trouble']}" for part in self.parts if part["trouble"]]


def gather(
    name: str,
    output: str = "",
    options: operations.Options | None = None,
    watcher: runner.Watcher | None = None,
) -> Gathered:
    """Write the archive ``output`` (a file .tar.gz, or a folder for one; empty: the working directory).

    What does not answer is told in ``parts``. Raises UsageError for another kind of file, StageFailed (20) when the
    archive cannot be written.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import archive as logic

    with names.translated():
        path = logic.archive_path(output, name)
    result = operations.run(
        "gather",
        name,
        {"devenv_output": str(path), "devenv_timeout": SECONDS},
        options or operations.Options(),
        watcher,
    )
    return Gathered(path, _parts(path), result)


def _parts(path: Path) -> list[dict[str, Any]]:
    """Rows of the archive's own index."""
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith("/index.json") and member.name.count("/") == 1:
                stream = tar.extractfile(member)
                return list(json.load(stream)["parts"]) if stream else []
    return []


def after_timeout(name: str, error: errors.Error, artifacts: Path | None) -> None:
    """Gather for a run that was ended because its time was over, and say so in ``error``: a run that fails by itself
    does it itself. Whatever goes wrong here leaves the first failure as it is.
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
