"""Supervise a run, so that whoever is killed, the rest is ended by who is left.

Two processes: the module, which Ansible knows, and its supervisor, which runs the programs in a session of its own. The
supervisor sees by a pipe that the module ended, the module sees by another that the supervisor did. Both adopt orphans
(prctl(2), PR_SET_CHILD_SUBREAPER), so a program that left its group is a descendant all the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import processes
from ansible_collections.devenv.lab.plugins.module_utils.script.control import Control, Interrupted, end, marked

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_CHILD_SUBREAPER = 36


class Lost(RuntimeError):
    """The supervisor was killed, or did not answer; what it ran is ended."""


def adopt_orphans() -> bool:
    """Make this process the parent of what its descendants leave behind. False where the kernel cannot."""
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


def supervised(
    work: Callable[[Control], dict[str, Any]], mark: str, finish: bool, wait: float, watched: int = 1
) -> dict[str, Any]:
    """Do ``work`` in a supervisor, and return what it returns (JSON). ``mark`` is that of what it starts.

    A signal, or the end of who reads ``watched`` (the module's stdout), interrupts: the supervisor ends its programs
    within ``wait`` s, or, with ``finish``, goes on without the module, which gets Interrupted. Raises Lost, and
    RuntimeError for a defect.
    """
    answer, reply = os.pipe()
    control, order = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if not finish:
        adopt_orphans()
    supervisor = os.fork()
    if supervisor == 0:
        os.close(answer)
        os.close(order)
        if finish:
            _leave_the_run()
        _supervise(work, reply, Control(control, deaf=finish))
    os.close(reply)
    os.close(control)
    if finish:
        os.waitpid(supervisor, 0)
    with _Signals() as signals:
        asked = False
        deadline = float("inf")
        text = b""
        poll = select.poll()
        poll.register(answer, select.POLLIN)
        poll.register(signals.source, select.POLLIN)
        poll.register(watched, 0)
        while time.monotonic() < deadline:
            ready = dict(poll.poll(500))
            if ready.pop(answer, 0):
                data = os.read(answer, 1 << 16)
                if not data:
                    break
                text += data
            # A descriptor that is none is no sign of anything.
            if ready.get(watched, 0) & select.POLLNVAL:
                poll.unregister(watched)
                ready.pop(watched)
            if ready:
                if signals.source in ready:
                    os.read(signals.source, 100)
                if watched in ready:
                    poll.unregister(watched)
                if finish:
                    raise Interrupted
                if not asked:
                    asked, deadline = True, time.monotonic() + wait
                    with contextlib.suppress(OSError):
                        os.write(order, b"i")
    with contextlib.suppress(ValueError):
        result: dict[str, Any] = json.loads(text.decode())
        if not finish:
            os.waitpid(supervisor, 0)
        if "defect" in result:
            raise RuntimeError(result["defect"])
        return result
    end(lambda: [*processes.descendants(os.getpid()), *marked(mark)], 0)
    raise Lost("the supervisor of the script was killed; what it ran is ended")


class _Signals:
    """While it is entered, signals that end a program make a pipe readable instead."""

    def __enter__(self) -> _Signals:
        self.source, self._target = os.pipe()
        os.set_blocking(self._target, False)
        self._before = {number: signal.signal(number, lambda *ignored: None) for number in _SIGNALS}
        signal.set_wakeup_fd(self._target)
        return self

    def __exit__(self, *ignored: Any) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.source)
        os.close(self._target)


def _leave_the_run() -> None:
    """Let this process, and what it starts, be no part of the run that starts it: not its child, without its mark. Who
    ends the run (the record callback, the next run) would end it otherwise.
    """
    if os.fork() != 0:
        os._exit(0)
    os.environ.pop(processes.MARKER, None)
    # What /proc shows is the memory that the kernel filled when the program began (proc_pid_stat(5), env_start).
    fields = processes.stat(os.getpid())
    with contextlib.suppress(IndexError, ValueError):
        begin, length = int(fields[47]), int(fields[48]) - int(fields[47])
        if begin and 0 < length < 1 << 24:
            place = (b"\0" + ctypes.string_at(begin, length)).find(b"\0" + processes.MARKER.encode() + b"=")
            if place >= 0:
                ctypes.memset(begin + place, ord("_"), len(processes.MARKER))


def _supervise(work: Callable[[Control], dict[str, Any]], reply: int, control: Control) -> None:
    """Run as the supervisor. Does not return."""
    code = 1
    try:
        os.setsid()
        adopt_orphans()
        for number in _SIGNALS:
            signal.signal(number, control.interrupt)
        # Who waits for the module's output must not wait for the supervisor.
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        try:
            result = work(control)
        except Exception:
            result = {"defect": traceback.format_exc()}
        data = json.dumps(result).encode()
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(reply, data) :]
        code = 0
    finally:
        os._exit(code)
