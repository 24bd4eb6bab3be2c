"""Runs of an environment: those in its state directory, and those kept after it is removed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import runs as environment_runs

from devenv import errors

LOG = "log.txt"  # in a run's directory, written by the record callback
_PAUSE = 0.2  # seconds between two reads of a log that grows


def runs(name: str) -> list[dict[str, Any]]:
    """Return summaries of the runs, oldest first. A running one has only ``run`` and ``folder``."""
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


def log(name: str, run: str | None = None, *, lines: int | None = None, follow: bool = False) -> Iterator[str]:
    """Yield the last ``lines`` (None: all) of a run's log; with ``follow``, also new lines until the run ends.

    The run is by default the one in progress, else the newest. Raises NotFound.
    """
    holder = lock.read(paths.environment(name)) if follow else None
    running = holder if holder and lock.is_alive(holder) and run in (None, holder.run_id) else None
    with _opened(name, running.run_id if running else run, running) as stream:
        text = stream.read()
        yield text if lines is None else "".join(text.splitlines(keepends=True)[-lines:])
        while running:
            alive = lock.is_alive(running)
            yield stream.read()
            if not alive:
                return
            time.sleep(_PAUSE)


def _opened(name: str, run: str | None, running: lock.Holder | None) -> TextIO:
    """Open a run's log. A run in progress (``running``) may not have begun it yet."""
    while True:
        alive = running is not None and lock.is_alive(running)
        try:
            return log_of(name, run).open(errors="replace")
        except errors.NotFound:
            if not alive:
                raise
        time.sleep(_PAUSE)


def _id(folder: Path) -> str:
    return folder.name.partition("-")[2]
