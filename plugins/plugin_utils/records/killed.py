"""Complete the record of a run whose Ansible was killed before it could do so, from the events that it wrote."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, runs
from ansible_collections.devenv.lab.plugins.plugin_utils.records import recorder


def complete(folder: Path, run_id: str, reason: str, command: str = "") -> None:
    """Write summary, failure and JUnit of the killed run ``run_id`` of the environment in ``folder``, end its stage in
    the ledger, and release its lock. Does nothing for a run without a directory, or with a summary or a failure.
    """
    place = runs.find(folder, run_id)
    if place is None or any((place / name).exists() for name in ("summary.json", "failure.json")):
        return
    record = _replayed(place, run_id, folder.name, command)
    report = record.finish(ok=False, interrupted=reason)
    for name, text in report.documents.items():
        files.write(place / name, text)
    stage = record.stages[-1] if record.stages else None
    if stage is not None and folder.is_dir():
        runs.add_line(
            folder, run=run_id, stage=stage.name, result=stage.result, seconds=stage.seconds, changed=stage.changed
        )
    holder = lock.read(folder)
    if holder is not None and holder.run_id == run_id and not lock.is_alive(holder):
        lock.release(folder, holder)


def complete_older(folder: Path, run_id: str) -> None:
    """Complete the records of all killed runs of the environment before the run ``run_id``, which holds the lock."""
    for place in runs.folders(folder):
        older = place.name.partition("-")[2]
        if older != run_id:
            with contextlib.suppress(OSError, ValueError, KeyError):
                complete(folder, older, "interrupted")


def _replayed(place: Path, run_id: str, environment: str, command: str) -> recorder.Recorder:
    """Return a recorder that has seen the events in the run's directory."""
    now = 0.0
    record = recorder.Recorder(clock=lambda: now)
    record.run = recorder.Run(run_id, environment, command=command)
    tasks: set[tuple[str, str]] = set()
    for event in _events(place):
        when = datetime.fromisoformat(event["time"])
        record.began = record.began if now else when
        now = (when - record.began).total_seconds() or 1e-9
        if event["event"] == "stage" and event.get("status") == "begun":
            record.play(f"{event['stage']} | {event['play']}")
        elif event["event"] == "result":
            if (event["stage"], event["task"]) not in tasks:
                tasks.add((event["stage"], event["task"]))
                record.task()
            record.result(recorder.Outcome(event["host"], event["task"], "", event["status"], {}, event["seconds"]))
    return record


def _events(place: Path) -> Iterator[dict[str, Any]]:
    """Yield the run's events, without a line that the kill truncated."""
    with contextlib.suppress(FileNotFoundError):
        for line in (place / recorder.EVENTS).read_text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)
