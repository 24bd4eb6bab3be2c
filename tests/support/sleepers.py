"""Processes that a test recognizes by the number of seconds that they sleep."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

from ansible_collections.devenv.lab.plugins.plugin_utils.core import processes


def sleepers(marker: str) -> list[int]:
    """Return the processes ``sleep <marker>``."""
    return [pid for pid in processes.all_processes() if processes.command_line(pid) == f"sleep {marker}"]


def new_marker() -> Iterator[str]:
    """Yield a number of seconds that no other process sleeps; kill the processes that still do at the end."""
    text = f"{10000 + os.getpid() % 5000}.{time.monotonic_ns() % 10**6}"
    yield text
    for pid in sleepers(text):
        os.kill(pid, signal.SIGKILL)
