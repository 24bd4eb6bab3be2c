"""The bootstrap token and certificate key of a cluster that nodes are about to join. They never leave the controller
but in a configuration.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files

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
    values = files.read_json(path, dict) or {}
    if not (TOKEN.fullmatch(str(values.get("token"))) and KEY.fullmatch(str(values.get("certificate_key")))):
        return False
    try:
        return 0 <= now - path.stat().st_mtime < MOST_SECONDS
    except OSError:
        return False


def ensure(path: Path, now: float, *, check: bool = False) -> bool:
    """Make the secret unless a usable one is there; 0600, whole or not at all. Returns whether it was (or would be)
    made.
    """
    if usable(path, now):
        return False
    if check:
        return True
    return files.write(path, json.dumps(new()))


def remove(path: Path, *, check: bool = False) -> bool:
    """Take the secret away, and what a killed run left of one. Returns whether there was something."""
    there = [entry for entry in (path, *path.parent.glob(f".{path.name}.*")) if entry.exists()]
    for entry in () if check else there:
        entry.unlink(missing_ok=True)
    return bool(there)
