"""Run programs so that nothing of them stays behind, and end them when the run is to end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.node import files, processes, program

MARKER = "DEVENV_SCRIPT"
_PAUSE = 0.1


class Interrupted(Exception):
    """The run was asked to end, or who asked for it is gone. ``left`` are processes that would not go."""

    def __init__(self, left: Sequence[str] = ()) -> None:
        self.left = list(left)
        super().__init__()


class Ended(NamedTuple):
    """How a program ended. ``left`` are descriptions of processes that would not go."""

    code: int
    seconds: float
    timed_out: bool
    left: list[str]


def marked(mark: str) -> list[int]:
    """Return the living processes whose environment carries ``DEVENV_SCRIPT=<mark>``, but this one and its parents."""
    wanted = f"{MARKER}={mark}".encode()
    spared = {os.getpid(), os.getppid()}
    return [
        pid
        for pid in processes.pids()
        if pid not in spared
        and wanted in processes.entries(pid, "environ")
        and processes.stat(pid)[:1] not in (["Z"], [])
    ]


def end(find: Callable[[], list[int]], grace: float, step: Callable[[float], None] = time.sleep) -> list[str]:
    """Send SIGTERM to all that ``find`` finds, SIGKILL ``grace`` s later to what is left, and to what came meanwhile.
    Return what would not go within 5 s more: ``["PID NAME"]``. ``step`` passes the time between two looks.
    """
    left = find()
    processes.send(left, signal.SIGTERM)
    # A stopped process takes no signal but SIGKILL until it is continued.
    processes.send(left, signal.SIGCONT)
    deadline = time.monotonic() + grace
    while left and time.monotonic() < deadline:
        step(_PAUSE)
        left = find()
    deadline = time.monotonic() + 5
    while left and time.monotonic() < deadline:
        processes.send(left, signal.SIGKILL)
        step(_PAUSE / 5)
        left = find()
    return [f"{pid} {files.read_text(f'/proc/{pid}/comm').strip()}" for pid in left]


class Control:
    """The supervisor's ear: whether it is to end, and programs that end with it."""

    def __init__(self, pipe: int = -1, deaf: bool = False) -> None:
        self._pipe = pipe
        self._deaf = deaf
        self._asked = False

    def interrupt(self, *ignored: Any) -> None:
        """Ask for the end (the handler of signals to the supervisor itself, which ends in any case)."""
        self._asked = True

    def stopped(self) -> bool:
        """Return whether the run is to end."""
        if not self._asked and self._pipe >= 0 and select.select([self._pipe], [], [], 0)[0]:
            # A byte, or the end of the pipe: the module asks, or is gone.
            if os.read(self._pipe, 1) == b"":
                self._pipe = -1
            self._asked = not self._deaf
        return self._asked

    def wait(self, seconds: float) -> None:
        """Let time pass. Raises Interrupted."""
        deadline = time.monotonic() + seconds
        while True:
            if self.stopped():
                raise Interrupted
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(_PAUSE, left))

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        timeout: float,
        grace: float,
        keep: Sequence[int] = (),
        write: Callable[[bytes], None] = lambda data: None,
        started: Callable[[int], None] = lambda pid: None,
    ) -> Ended:
        """Run ``argv`` in a session of its own and hand its output (both streams) to ``write``; ``keep`` are file
        descriptors that it inherits, ``timeout`` and ``grace`` are seconds (0: no limit). What it started is ended with
        it, unless it ended well. Raises Interrupted (all is ended then), OSError when it cannot be started.
        """
        began = time.monotonic()
        more = {"env": dict(env), "cwd": cwd, "pass_fds": list(keep)}
        child = program.start(argv, merged=True, stdin=subprocess.DEVNULL, **more)
        started(child.pid)
        deadline = began + timeout if timeout > 0 else float("inf")
        left: list[str] = []
        timed_out = interrupted = False
        with program.Pipes(child, lambda _stream, data: write(data)) as pipes:
            while child.poll() is None and not timed_out and not interrupted:
                pipes.step(_PAUSE)
                timed_out = time.monotonic() >= deadline
                interrupted = self.stopped()
            if timed_out or interrupted or child.returncode != 0:
                left = end(lambda: _of(child), grace, pipes.step)
            pipes.drain()
        code = child.wait()
        if interrupted:
            raise Interrupted(left)
        return Ended(program.TIMED_OUT if timed_out else code, time.monotonic() - began, timed_out, left)


def _of(child: subprocess.Popen[bytes]) -> list[int]:
    """Return what is left of a program: its group, and all that descends from this process."""
    child.poll()
    found = processes.descendants(os.getpid())
    for pid in processes.pids():
        fields = processes.stat(pid)
        if len(fields) > 3 and str(child.pid) in fields[2:4] and fields[0] not in ("Z", "X") and pid not in found:
            found.append(pid)
    _reap(child.pid)
    return found


def _reap(spared: int) -> None:
    """Collect adopted processes that ended; ``spared`` is collected by who started it."""
    for pid in processes.pids():
        fields = processes.stat(pid)
        if pid != spared and len(fields) > 1 and fields[0] == "Z" and int(fields[1]) == os.getpid():
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
