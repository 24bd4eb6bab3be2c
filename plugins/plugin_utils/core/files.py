"""Atomic writes of private files, JSON files and waiting file locks."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def write(path: Path, content: str | bytes, mode: int = 0o600) -> bool:
    """Write ``content`` to ``path`` atomically (temporary file, then rename). Return whether anything changed."""
    data = content.encode() if isinstance(content, str) else content
    with contextlib.suppress(OSError):
        if path.read_bytes() == data and path.stat().st_mode & 0o777 == mode:
            return False
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return True


def tighten_umask() -> None:
    """Ensure that no directory or file is created writable for others, whatever the user's umask."""
    os.umask(os.umask(0o077) | 0o022)


def read_json(path: Path, kind: type[T]) -> T | None:
    """Return the document in the JSON file ``path``; None if it is missing, broken or of another type than ``kind``."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, kind) else None


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` (waits for flock). It cannot go stale: the kernel frees it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path, "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def make_private(path: Path, base: Path) -> None:
    """Create the directory ``path`` and its parents below ``base`` (0700); mkdir would not restrict the parents."""
    for part in [*reversed([above for above in path.parents if above.is_relative_to(base)]), path]:
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
