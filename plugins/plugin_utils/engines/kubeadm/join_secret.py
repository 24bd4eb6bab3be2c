"""The bootstrap token and certificate key with which nodes join a cluster. They leave the controller only inside a
configuration.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files

# A token is valid for 30 minutes in the cluster; joins do not start with one older than this.
MOST_SECONDS = 600

ALPHABET = string.ascii_lowercase + string.digits
TOKEN = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
KEY = re.compile(r"[0-9a-f]{64}")


def new() -> dict[str, str]:
    """Return ``{token, certificate_key}`` in kubeadm's forms: bootstrap token, 32 bytes in hexadecimal."""
    word = "".join(secrets.choice(ALPHABET) for _ignored in range(22))
    return {"token": f"{word[:6]}.{word[6:]}", "certificate_key": secrets.token_hex(32)}


def usable(path: Path, now: float) -> bool:
    """Return whether the file has a complete secret that is young enough."""
    values = files.read_json(path, dict) or {}
    if not (TOKEN.fullmatch(str(values.get("token"))) and KEY.fullmatch(str(values.get("certificate_key")))):
        return False
    try:
        return 0 <= now - path.stat().st_mtime < MOST_SECONDS
    except OSError:
        return False


def ensure(path: Path, now: float, *, check: bool = False) -> bool:
    """Create the secret atomically (0600) unless a usable one exists. Return whether it was (or would be) created."""
    if usable(path, now):
        return False
    return check or files.write(path, json.dumps(new()))


def remove(path: Path, *, check: bool = False) -> bool:
    """Remove the secret, and temporary files of a killed run. Return whether any existed."""
    existing = [entry for entry in (path, *path.parent.glob(f".{path.name}.*")) if entry.exists()]
    for entry in () if check else existing:
        entry.unlink(missing_ok=True)
    return bool(existing)
