"""Releases what a test process used when that process was killed: ``python -m devenv.testing.allocators.guard``.

Its settings come on stdin. It waits for the end of one process, by pid and start time. A test run that ends by itself
releases its environments itself and ends this one.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

PAUSE = 0.5


def start(settings: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Start the guard of this process. ``settings``: see `main`."""
    child = subprocess.Popen(
        [sys.executable, "-m", "devenv.testing.allocators.guard"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C in the terminal is for the tests.
        start_new_session=True,
        cwd="/",
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(settings).encode())
    child.stdin.close()
    return child


def main() -> int:
    """Settings: ``process`` (pid and start), ``allocator`` and ``allocator_settings`` (load.load), ``policy``, ``path``
    (of modules).
    """
    settings = json.load(sys.stdin)
    sys.path[:0] = [path for path in settings["path"] if path not in sys.path]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Imported now: what lies on disk may change while it waits.
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait

    from devenv.testing.allocators import leases
    from devenv.testing.allocators.load import load

    watched = leases.Process(**settings["process"])
    wait.until(lambda: not watched.is_alive, math.inf, pause=PAUSE)
    allocator = load(settings["allocator"], settings["allocator_settings"])
    held = leases.Leases(leases.Policy(**settings["policy"]), allocator.is_up, allocator.down)
    code = 0
    for name in held.names():
        lease = held.read(name)
        if watched in lease.users or watched in lease.busy:
            try:
                held.leave(name, watched, failed=watched in lease.busy)
            except Exception:  # the others shall be released, too
                code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
