"""Who answers ssh: asked from here, all at once, without logging in."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.command import Connection


def answering_ssh(targets: Mapping[str, Connection], limit: float) -> list[str]:
    """Return the names of those ``targets`` that greet as an ssh server within ``limit`` seconds."""
    deadline = time.monotonic() + limit
    with ThreadPoolExecutor(max_workers=max(1, min(32, len(targets)))) as pool:
        greeted = pool.map(lambda one: wait.until(lambda: _greets(one), deadline), targets.values())
        return [name for name, ok in zip(targets, greeted, strict=True) if ok]


def _greets(one: Connection) -> bool:
    try:
        with socket.create_connection((one.address, one.port or 22), timeout=2) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
