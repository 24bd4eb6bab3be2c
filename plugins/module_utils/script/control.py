"""Run programs without leaving processes behind, and terminate them when the run is interrupted."""

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
    """The run was interrupted, or the module is gone. ``remaining`` are processes that could not be terminated."""

    def __init__(self, remaining: Sequence[str] = ()) -> None:
        self.remaining = list(remaining)
        super().__init__()


class Ended(NamedTuple):
    """How a program ended. ``remaining`` describes processes that could not be terminated."""

    code: int
    timed_out: bool
    remaining: list[str]


def marked(mark: str) -> list[int]:
    """Return the running processes with ``DEVENV_SCRIPT=<mark>`` in their environment, except this one and its
    parent.
    """
    entry = f"{MARKER}={mark}".encode()
    spared = {os.getpid(), os.getppid()}
    return [
        pid
        for pid in processes.pids()
        if pid not in spared and entry in processes.entries(pid, "environ") and not processes.gone(pid)
    ]


def end(find: Callable[[], list[int]], grace: float, step: Callable[[float], None] = time.sleep) -> list[str]:
    """Send SIGTERM to the processes of ``find``; after ``grace`` seconds, SIGKILL to those that remain or are new.
    Return what does not end within another 5 seconds: ``["PID NAME"]``. ``step`` waits between two checks.
    """
    remaining = find()
    processes.send(remaining, signal.SIGTERM)
    # A stopped process handles SIGTERM only after it is continued.
    processes.send(remaining, signal.SIGCONT)
    deadline = time.monotonic() + grace
    while remaining and time.monotonic() < deadline + 5:
        is_late = time.monotonic() >= deadline
        if is_late:
            processes.send(remaining, signal.SIGKILL)
        step(_PAUSE / 5 if is_late else _PAUSE)
        remaining = find()
    return [f"{pid} {files.read_text(f'/proc/{pid}/comm').strip()}" for pid in remaining]


class Control:
    """Detects in the supervisor that the run is interrupted, and runs programs that end then.

    ``pipe`` is readable when the module is interrupted or gone, which does not count if the run must ``finish``.
    """

    def __init__(self, pipe: int, finish: bool) -> None:
        self._pipe = pipe
        self._finish = finish
        self._interrupted = False

    def interrupt(self, *ignored: Any) -> None:
        """Interrupt the run: the handler of signals to the supervisor itself, which always count."""
        self._interrupted = True

    def interrupted(self) -> bool:
        """Return whether the run is interrupted."""
        if not self._interrupted and self._pipe >= 0 and select.select([self._pipe], [], [], 0)[0]:
            # A byte from the module, or the end of the pipe if it is gone.
            if os.read(self._pipe, 1) == b"":
                self._pipe = -1
            self._interrupted = not self._finish
        return self._interrupted

    def wait(self, seconds: float) -> None:
        """Wait. Raises Interrupted."""
        deadline = time.monotonic() + seconds
        while True:
            if self.interrupted():
                raise Interrupted
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            time.sleep(min(_PAUSE, remaining))

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        timeout: float,
        grace: float,
        keep: Sequence[int],
        write: Callable[[bytes], None],
    ) -> Ended:
        """Run ``argv`` in its own session and pass its output (both streams) to ``write``; ``keep`` are file
        descriptors that it inherits, ``timeout`` and ``grace`` are seconds (0: no limit). Processes that it started are
        terminated unless it succeeds. Raises Interrupted once all are terminated, OSError if it cannot be started.
        """
        more = {"env": dict(env), "cwd": cwd, "pass_fds": list(keep)}
        child = program.start(argv, merged=True, stdin=subprocess.DEVNULL, **more)
        deadline = time.monotonic() + timeout if timeout > 0 else float("inf")
        remaining: list[str] = []
        timed_out = interrupted = False
        with program.Pipes(child, lambda _stream, data: write(data)) as pipes:
            while child.poll() is None and not timed_out and not interrupted:
                pipes.step(_PAUSE)
                timed_out = time.monotonic() >= deadline
                interrupted = self.interrupted()
            if timed_out or interrupted or child.returncode != 0:
                remaining = end(lambda: _of(child), grace, pipes.step)
            pipes.drain()
        code = child.wait()
        if interrupted:
            raise Interrupted(remaining)
        return Ended(program.TIMED_OUT if timed_out else code, timed_out, remaining)


def _of(child: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes of a program: its group and session, and all descendants of this process."""
    child.poll()
    pids = processes.descendants(os.getpid())
    for pid in processes.pids():
        fields = processes.stat(pid)
        if len(fields) > 3 and str(child.pid) in fields[2:4] and fields[0] not in ("Z", "X") and pid not in pids:
            pids.append(pid)
    _reap(child.pid)
    return pids


def _reap(spared: int) -> None:
    """Collect adopted processes that have ended; ``spared`` is collected by its own Popen."""
    for pid in processes.pids():
        fields = processes.stat(pid)
        if pid != spared and len(fields) > 1 and fields[0] == "Z" and int(fields[1]) == os.getpid():
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
