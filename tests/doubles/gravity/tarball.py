"""The tarball of a cluster, like that of a user of Gravity, with the test double as its program."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_PACKAGE = "doubles/gravity/"
_MAIN = "import sys\n\nfrom doubles.gravity.program import main\n\nraise SystemExit(main(sys.argv[1:]))\n"
_NO_FAULTS = "FAULTS: list[dict[str, Any]] = []"


def manifest(version: str = "1.0.0") -> dict[str, Any]:
    """Return app.yaml: flavors of one and three nodes, node profiles for masters, workers and one without expansion."""
    master = {"serviceRole": "master", "labels": {"node-role.kubernetes.io/master": "true"}}
    node = {"serviceRole": "node", "labels": {"node-role.kubernetes.io/node": "true"}}
    return {
        "apiVersion": "cluster.gravitational.io/v2",
        "kind": "Cluster",
        "metadata": {"name": "lab", "version": version},
        "installer": {
            "flavors": {
                "default": "one",
                "items": [
                    {"name": "one", "nodes": [{"profile": "aio", "count": 1}]},
                    {"name": "three", "nodes": [{"profile": "aio", "count": 3}]},
                ],
            }
        },
        "nodeProfiles": [
            {"name": "aio", "description": "a master with everything", **master},
            {"name": "pipe", "description": "a worker", **node},
            {"name": "only-once", "expandPolicy": "fixed", **node},
        ],
    }


def program(faults: Sequence[dict[str, Any]] = (), version: str = "7.0.40") -> bytes:
    """Return the test double with ``faults``, as a program: its modules in a zip archive that Python runs."""
    modules = {file.name: file.read_text(encoding="utf-8") for file in sorted(_FOLDER.glob("*.py"))}
    base = modules["base.py"]
    assert _NO_FAULTS in base
    faulty = f"FAULTS: list[dict[str, Any]] = json.loads({json.dumps(json.dumps(list(faults)))})"
    modules["base.py"] = base.replace(_NO_FAULTS, faulty).replace('VERSION = "7.0.40"', f'VERSION = "{version}"')
    stream = io.BytesIO()
    stream.write(b"#!/usr/bin/python3 -SE\n")
    with zipfile.ZipFile(stream, "a") as archive:
        files = {"__main__.py": _MAIN, "doubles/__init__.py": "", f"{_PACKAGE}__init__.py": ""}
        for name, text in {**files, **{_PACKAGE + name: text for name, text in modules.items()}}.items():
            # Without a date, so that the same modules result in the same file.
            archive.writestr(zipfile.ZipInfo(name), text)
    return stream.getvalue()


def make(target: Path, faults: Sequence[dict[str, Any]] = (), version: str = "1.0.0", gravity: str = "7.0.40") -> str:
    """Write the tarball to ``target`` and return its sha256; the same arguments result in the same file."""
    files: dict[str, tuple[str | bytes, int]] = {
        "gravity": (program(faults, gravity), 0o755),
        "app.yaml": (json.dumps(manifest(version), indent=1) + "\n", 0o644),
        "install": ('#!/bin/sh\nexec "$(dirname "$0")/gravity" install "$@"\n', 0o755),
        "upload": ('#!/bin/sh\ncd "$(dirname "$0")" && exec ./gravity update upload\n', 0o755),
    }
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, (text, mode) in files.items():
            entry = tarfile.TarInfo(name)
            data = text if isinstance(text, bytes) else text.encode()
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return hashlib.sha256(target.read_bytes()).hexdigest()


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
