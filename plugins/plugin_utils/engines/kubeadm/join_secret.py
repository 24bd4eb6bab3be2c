"""The bootstrap token and certificate key of a cluster that nodes are about to join. They never leave the controller
but in a configuration.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import string
import tempfile
from pathlib import Path

# A token lives 30 minutes in the cluster; one older than this is not begun with.
MOST_SECONDS = 600

ALPHABET = string.ascii_lowercase + string.digits
TOKEN = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
KEY = re.compile(r"[0-9a-f]{64}")


def new() -> dict[str, str]:
    """``{token, certificate_key}`` in kubeadm's forms: bootstrap token, 32 bytes in hexadecimal."""
    word = "".join(secrets.choice(ALPHABET) for _ignored in range(22))
    return {"token": f"{word[:6]}.{word[6:]}", "certificate_key": secrets.token_hex(32)}


def usable(path: Path, now: float) -> bool:
    """Whether the file holds a whole secret that is young enough."""
    try:
        values = json.loads(path.read_text())
        fresh = 0 <= now - path.stat().st_mtime < MOST_SECONDS
        return fresh and bool(TOKEN.fullmatch(values["token"])) and bool(KEY.fullmatch(values["certificate_key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def ensure(path: Path, now: float, *, check: bool = False) -> bool:
    """Make the secret unless a usable one is there; 0600, whole or not at all. Returns whether it was (or would be)
    made.
    """
    if usable(path, now):
        return False
    if check:
        return True
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp gives 0600.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".join-")
    with os.fdopen(descriptor, "w") as stream:
        json.dump(new(), stream)
    os.replace(name, path)
    return True


def remove(path: Path, *, check: bool = False) -> bool:
    """Take the secret away, and what a killed run left of one. Returns whether there was something."""
    there = [entry for entry in (path, *path.parent.glob(".join-*")) if entry.exists()]
    for entry in () if check else there:
        entry.unlink(missing_ok=True)
    return bool(there)
