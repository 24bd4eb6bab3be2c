"""Collect what an environment knows of itself, when asked and when an `up` failed."""

from __future__ import annotations

import contextlib
import json
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv import errors, operations
from devenv.environments import names
from devenv.runs import runner

SECONDS = 60.0
OWN_NAME = "gather.tar.gz"
# Failures of a stage that had nodes; an unexpected one (1) may have had some.
_STAGES = frozenset({1, 3, 4, 5, 6, 7, 8})


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


def after(name: str, error: errors.Error, options: operations.Options, watcher: runner.Watcher | None) -> None:
    """Gather after a failed run into its folder (and its artifacts), and say so in ``error``. Whatever goes wrong here
    leaves the first failure as it is.
    """
    folder = paths.environment(name)
    if error.exit_code not in _STAGES or not (folder / "network.yml").exists():
        return
    run_dir = error.log.parent if error.log and error.log.is_relative_to(folder / "runs") else folder
    try:
        done = gather(
            name,
            str(run_dir / OWN_NAME),
            operations.Options(timeout=SECONDS, verbosity=options.verbosity, command=options.command),
            watcher,
        )
    except (Exception, errors.Interrupted) as trouble:
        error.gather_trouble = f"{type(trouble).__name__}: {trouble}"
        return
    error.gathered = done.path
    if options.artifacts:
        with contextlib.suppress(OSError):
            _copy(done.path, options.artifacts, run_dir.name.partition("-")[2])


def _copy(archive: Path, artifacts: Path, run_id: str) -> None:
    for folder in artifacts.glob(f"*-{run_id}") if run_id else ():
        # Keeps the mode: what was redacted is still nobody else's.
        shutil.copy(archive, folder / OWN_NAME)
