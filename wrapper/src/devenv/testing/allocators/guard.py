"""Release the environments of a killed test process: ``python -m devenv.testing.allocators.guard``.

It reads its settings from stdin and waits for the end of one process. A test run that ends normally releases its
environments and stops its guard.
"""

from __future__ import annotations

import contextlib
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


def main() -> None:
    """Settings: ``process`` (pid and start), ``allocator`` and ``allocator_settings`` (base.load), ``policy``, ``path``
    (of modules).
    """
    settings = json.load(sys.stdin)
    sys.path[:0] = [path for path in settings["path"] if path not in sys.path]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Imported before the wait: the files may change meanwhile.
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait

    from devenv.testing.allocators import base, leases

    process = leases.Process(**settings["process"])
    wait.until(lambda: not process.is_alive, math.inf, pause=PAUSE)
    allocator = base.load(settings["allocator"], settings["allocator_settings"])
    store = leases.Leases(leases.Policy(**settings["policy"]), allocator.is_up, allocator.down)
    for name in store.names():
        lease = store.read(name)
        if process in lease.users or process in lease.busy:
            # An error must not keep the other environments from being released.
            with contextlib.suppress(Exception):
                store.leave(name, process, failed=process in lease.busy)


if __name__ == "__main__":
    main()
