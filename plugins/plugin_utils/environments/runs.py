"""Runs of an environment: their directories and the ledger of stages.

A run's directory is ``runs/<UTC time>-<run id>/`` of the state directory, and has the same name in
``<home>/history/<environment>/`` once the environment is gone. ``ledger.jsonl`` of the state directory has one line
per start and end of a stage.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

KEPT = 10


def folders(folder: Path) -> list[Path]:
    """Return the run directories of a state directory, oldest first (their names start with the time)."""
    return sorted(entry for entry in (folder / "runs").glob("*-*") if entry.is_dir())


def folder_of(folder: Path, run_id: str) -> Path | None:
    """Return the directory of the run ``run_id`` in the state directory."""
    return _of_run(folders(folder), run_id)


def kept(folder: Path) -> list[Path]:
    """Return all run directories of an environment that may be gone, including those in the history; oldest first."""
    history = folder.parent.parent / "history" / folder.name
    directories = [*(entry for entry in history.glob("*-*") if entry.is_dir()), *folders(folder)]
    return sorted(directories, key=lambda entry: entry.name)


def find(folder: Path, run_id: str) -> Path | None:
    """Return the directory of the run ``run_id`` of an environment that may be gone."""
    return _of_run(kept(folder), run_id)


def _of_run(directories: list[Path], run_id: str) -> Path | None:
    return next((entry for entry in reversed(directories) if entry.name.partition("-")[2] == run_id), None)


def new_id() -> str:
    """Return an id that no other run on this machine has."""
    return secrets.token_hex(6)


def make(folder: Path, run_id: str, now: datetime | None = None) -> Path:
    """Create ``runs/<UTC time>-<run id>/`` and remove the oldest ones beyond KEPT."""
    when = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    made = folder / "runs" / f"{when}-{run_id}"
    made.parent.mkdir(mode=0o700, exist_ok=True)
    made.mkdir(mode=0o700)
    trim(made.parent)
    return made


def trim(folder: Path) -> None:
    """Remove the oldest run directories in ``folder`` beyond KEPT."""
    for old in sorted(entry for entry in folder.iterdir() if entry.is_dir())[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def ledger(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the ledger, without those that a kill truncated; none if it cannot be read."""
    try:
        lines = (folder / "ledger.jsonl").read_text(errors="replace").splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]


def add_line(
    folder: Path, *, run: str, stage: str, result: str, seconds: float | None = None, changed: int | None = None
) -> None:
    """Add a line to the ledger: ``{time, run, stage, seconds, result, changed}``. ``result`` is begun, done, failed
    or interrupted.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run,
        "stage": stage,
        "seconds": None if seconds is None else round(seconds, 2),
        "result": result,
        "changed": changed,
    }
    handle = os.open(folder / "ledger.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(json.dumps(line) + "\n")
