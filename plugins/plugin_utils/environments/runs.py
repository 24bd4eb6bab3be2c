"""Runs of an environment: their folders and the ledger of stages.

A run's folder is ``runs/<UTC time>-<run id>/`` of the state folder, or ``<home>/history/<environment>/<the same>`` once
the environment is gone. ``ledger.jsonl`` of the state folder has one line per begin and end of a stage.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

KEPT = 10


def folders(folder: Path) -> list[Path]:
    """Return the run folders of a state folder, oldest first (their names begin with the time)."""
    return sorted(entry for entry in (folder / "runs").glob("*-*") if entry.is_dir())


def folder_of(folder: Path, run_id: str) -> Path | None:
    """Return the folder of the run ``run_id`` in the state folder."""
    return next((entry for entry in reversed(folders(folder)) if entry.name.partition("-")[2] == run_id), None)


def kept(folder: Path) -> list[Path]:
    """Return all run folders of an environment that may be gone, those in the history included; oldest first."""
    history = folder.parent.parent / "history" / folder.name
    found = [*(entry for entry in history.glob("*-*") if entry.is_dir()), *folders(folder)]
    return sorted(found, key=lambda entry: entry.name)


def find(folder: Path, run_id: str) -> Path | None:
    """Return the folder of the run ``run_id`` of an environment that may be gone."""
    return next((entry for entry in reversed(kept(folder)) if entry.name.partition("-")[2] == run_id), None)


def new_id() -> str:
    """Return an id that no other run of this machine has."""
    return secrets.token_hex(6)


def make(folder: Path, run_id: str, now: datetime | None = None) -> Path:
    """Make ``runs/<UTC time>-<run id>/`` and remove the oldest ones beyond KEPT."""
    when = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    made = folder / "runs" / f"{when}-{run_id}"
    made.parent.mkdir(mode=0o700, exist_ok=True)
    made.mkdir(mode=0o700)
    trim(made.parent)
    return made


def trim(folder: Path) -> None:
    """Remove the oldest run folders in ``folder`` beyond KEPT."""
    for old in sorted(entry for entry in folder.iterdir() if entry.is_dir())[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def ledger(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the ledger, without one that was cut short by a kill."""
    try:
        lines = (folder / "ledger.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def add_line(
    folder: Path, *, run: str, stage: str, result: str, seconds: float | None = None, changed: int | None = None
) -> None:
    """Add a line to the ledger: ``{time, run, stage, seconds, result, changed}``; ``result`` is begun, done, failed
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
    path = folder / "ledger.jsonl"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(json.dumps(line) + "\n")
