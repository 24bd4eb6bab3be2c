"""Long programs, read line by line, that end with their caller.

They stay in its process group, so that Ctrl-C reaches them, and the kernel ends them when it was killed.
"""

from __future__ import annotations

import collections
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed

TAIL = 60
# setpriv is of util-linux, an essential package of Debian. Elsewhere a killed caller leaves the program running.
_BOUND = ("setpriv", "--pdeathsig", "TERM", "--") if shutil.which("setpriv") else ()


def stream(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] = lambda _line: None,
    on_wait: Callable[[], None] = lambda: None,
    timeout: float = 3600,
) -> list[str]:
    """Run ``argv``; ``on_line`` gets each line of both streams, ``on_wait`` is called about every second.

    ``env`` is the whole environment when given. Returns the last lines. Raises ProgramFailed (its ``stderr`` holds the
    last lines) and FileNotFoundError.
    """
    if shutil.which(argv[0]) is None:
        raise FileNotFoundError(argv[0])
    child = subprocess.Popen(
        [*_BOUND, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=dict(os.environ if env is None else env), cwd=cwd,
    )  # fmt: skip
    if child.stdout is None:
        raise AssertionError("child.stdout")
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(child.stdout, lines), daemon=True).start()
    tail: collections.deque[str] = collections.deque(maxlen=TAIL)
    deadline = time.monotonic() + timeout
    try:
        while True:
            try:
                line = lines.get(timeout=1)
            except queue.Empty:
                on_wait()
                if time.monotonic() > deadline:
                    raise ProgramFailed(argv, None, "\n".join(tail)) from None
                continue
            if line is None:
                break
            tail.append(line)
            on_line(line)
        code = child.wait(timeout=max(1, deadline - time.monotonic()))
    except BaseException:
        child.kill()
        child.wait()
        raise
    if code != 0:
        raise ProgramFailed(argv, code, "\n".join(tail))
    return list(tail)


def _pump(stream_of: IO[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream_of:
        lines.put(line.decode(errors="replace").rstrip())
    lines.put(None)
