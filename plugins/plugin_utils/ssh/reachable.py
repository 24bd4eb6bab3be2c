"""Check which nodes answer ssh: from the controller, all at once, without logging in."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.command import Connection


def answering_ssh(targets: Mapping[str, Connection], limit: float) -> list[str]:
    """Return the names of the ``targets`` that send the greeting of an ssh server within ``limit`` seconds."""
    greeted = _greeted([(target.address, target.port or 22) for target in targets.values()], limit)
    return [name for name, ok in zip(targets, greeted, strict=True) if ok]


def wait_for_ssh(
    targets: Sequence[tuple[str, str]], limit: float = 60, *, patience: float = 2, pause: float = 0.05
) -> None:
    """Wait until all ``targets`` (name and address) send the greeting of an ssh server. One greeting can take
    ``patience`` seconds: each attempt costs the node a process. Raises DevenvError ``node_no_ssh`` after ``limit``
    seconds.
    """
    greeted = _greeted([(address, 22) for _name, address in targets], limit, patience, pause)
    silent = [f"{name} ({address})" for (name, address), ok in zip(targets, greeted, strict=True) if not ok]
    if silent:
        raise DevenvError("node_no_ssh", f"no answer from ssh within {limit:.0f} s: {', '.join(silent)}")


def _greeted(servers: Sequence[tuple[str, int]], limit: float, patience: float = 2, pause: float = 0.1) -> list[bool]:
    deadline = time.monotonic() + limit
    with ThreadPoolExecutor(max_workers=max(1, min(32, len(servers)))) as pool:
        return list(pool.map(lambda it: wait.until(lambda: _greets(it, patience), deadline, pause=pause), servers))


def _greets(server: tuple[str, int], patience: float) -> bool:
    try:
        with socket.create_connection(server, timeout=2) as connection:
            connection.settimeout(patience)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
