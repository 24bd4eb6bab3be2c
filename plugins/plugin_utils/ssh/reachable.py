"""Who answers ssh: asked from here, all at once, without logging in."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor


def answering_ssh(targets: Mapping[str, str], limit: float) -> list[str]:
    """Names of those of ``targets`` (name to address) that greet as an ssh server within ``limit`` seconds."""
    deadline = time.monotonic() + limit
    with ThreadPoolExecutor(max_workers=max(1, min(32, len(targets)))) as pool:
        greeted = pool.map(lambda address: _greets(address, deadline), targets.values())
        return [name for name, ok in zip(targets, greeted, strict=True) if ok]


def _greets(address: str, deadline: float, port: int = 22) -> bool:
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((address, port), timeout=2) as connection:
                connection.settimeout(2)
                if connection.recv(4) == b"SSH-":
                    return True
        except OSError:
            pass
        time.sleep(0.1)
    return False
