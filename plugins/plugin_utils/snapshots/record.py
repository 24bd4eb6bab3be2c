"""The record in a state directory that its environment starts from a snapshot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files

FILE = "snapshot.json"


@dataclass(frozen=True)
class Record:
    """The snapshot's name and digest, and whether the environment's clusters are complete."""

    name: str
    digest: str
    done: bool = False


def read(folder: Path) -> Record | None:
    """Return the record in a state directory; None if it is absent or unreadable."""
    data = files.read_json(folder / FILE, dict) or {}
    if not {"name", "digest", "done"} <= data.keys():
        return None
    return Record(str(data["name"]), str(data["digest"]), bool(data["done"]))


def write(folder: Path, record: Record) -> None:
    """Write the record of a state directory."""
    files.write(folder / FILE, json.dumps(asdict(record)) + "\n")


def finish(folder: Path) -> bool:
    """Record that the environment's clusters are complete; return whether the record changed."""
    record = read(folder)
    if record is None or record.done:
        return False
    write(folder, replace(record, done=True))
    return True
