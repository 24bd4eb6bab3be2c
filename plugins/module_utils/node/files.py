"""Read and write files of a node. A write is atomic: it is complete or did not happen."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from typing import IO, Any


def under(root: str, path: str) -> str:
    """Return ``path`` below ``root`` ("/" is the machine itself)."""
    return os.path.join(root, path.lstrip("/"))


def read_text(path: str) -> str:
    """Return the content of a small text file, "" if it does not exist or is not readable."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def read_json(path: str) -> dict[str, Any]:
    """Return a JSON object from a file, {} if it is missing or damaged."""
    try:
        value = json.loads(read_text(path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def read_end(path: str, limit: int) -> bytes:
    """Return the last ``limit`` bytes of a file. Raises OSError."""
    with open(path, "rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - limit))
        return stream.read(limit)


def sha256(path: str) -> str:
    """Return the sha256 (hex) of a file. Raises OSError."""
    result = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            result.update(block)
    return result.hexdigest()


def digest(path: str) -> str:
    """Return the sha256 (hex) of a file, "" if it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return ""


def write(
    path: str, content: str | bytes, mode: int = 0o600, *, owner: str = "", group: str = "", durable: bool = False
) -> None:
    """Write a file atomically, private unless ``mode`` states otherwise; a ``durable`` one survives a power failure.
    Raises OSError.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    _put(io.BytesIO(data), path, mode, owner, group, durable)


def write_if_changed(path: str, content: str, mode: int = 0o600) -> bool:
    """Write a file unless it already has this content; return whether it was written. Raises OSError."""
    if read_text(path) == content:
        return False
    write(path, content, mode)
    return True


def write_json(path: str, data: dict[str, Any], mode: int = 0o644) -> None:
    """Write a JSON object atomically. Raises OSError."""
    write(path, json.dumps(data, indent=1, sort_keys=True) + "\n", mode)


def install(source: str, target: str, mode: int = 0o755) -> None:
    """Copy a file to ``target`` atomically: processes that use the old file keep it. Raises OSError."""
    with open(source, "rb") as stream:
        _put(stream, target, mode, "", "", False)


def _put(source: IO[bytes], path: str, mode: int, owner: str, group: str, durable: bool) -> None:
    folder, name = os.path.split(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    # A fixed name, so that the next run overwrites the file of a killed one. kubelet and others skip dotfiles.
    part = os.path.join(folder, f".{name}.devenv")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as stream:
        _fill(stream, source, mode, owner, group)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    try:
        os.replace(part, path)
    except OSError as error:
        os.unlink(part)
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        # A mount point (a container's /etc/hosts) cannot be replaced.
        source.seek(0)
        with open(path, "wb") as stream:
            _fill(stream, source, mode, owner, group)


def _fill(stream: IO[bytes], source: IO[bytes], mode: int, owner: str, group: str) -> None:
    if owner:
        shutil.chown(stream.fileno(), owner)
    if group:
        shutil.chown(stream.fileno(), group=group)
    os.fchmod(stream.fileno(), mode)
    shutil.copyfileobj(source, stream)
