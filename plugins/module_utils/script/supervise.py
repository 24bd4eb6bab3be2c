"""Supervise a run so that no process of it remains, whichever of its processes is killed.

There are two processes: the module, which Ansible started, and its supervisor, which runs the programs in its own
session. Each detects the end of the other by a pipe. Both adopt orphans (prctl(2), PR_SET_CHILD_SUBREAPER), so a
program that left its process group is still a descendant.
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
from collections.abc import Callable, Iterator
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import processes
from ansible_collections.devenv.lab.plugins.module_utils.script.control import Control, Interrupted, end, marked

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_CHILD_SUBREAPER = 36
_STDOUT = 1


class Lost(RuntimeError):
    """The supervisor was killed or did not answer; its programs are terminated."""


def adopt_orphans() -> None:
    """Make this process the parent of orphaned descendants, if the kernel can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def supervised(work: Callable[[Control], dict[str, Any]], mark: str, finish: bool, wait: float) -> dict[str, Any]:
    """Call ``work`` in a supervisor, and return its result (JSON). Its programs carry ``mark``.

    A signal, or the end of the reader of the module's stdout, interrupts the run: the supervisor terminates its
    programs within ``wait`` seconds or, with ``finish``, continues without the module, which raises Interrupted. Raises
    Lost, and RuntimeError for a defect.
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
        _supervise(work, reply, Control(control, finish))
    os.close(reply)
    os.close(control)
    if finish:
        os.waitpid(supervisor, 0)
    text = _read_answer(answer, order, finish, wait)
    with contextlib.suppress(ValueError):
        result: dict[str, Any] = json.loads(text)
        if not finish:
            os.waitpid(supervisor, 0)
        if "defect" in result:
            raise RuntimeError(result["defect"])
        return result
    end(lambda: [*processes.descendants(os.getpid()), *marked(mark)], 0)
    raise Lost("the supervisor of the script was killed; the script is terminated")


def _read_answer(answer: int, order: int, finish: bool, wait: float) -> bytes:
    """Return what the supervisor writes to ``answer``; on an interruption, signal it by ``order``."""
    deadline = float("inf")
    text = b""
    with _signals() as signals:
        poll = select.poll()
        poll.register(answer, select.POLLIN)
        poll.register(signals, select.POLLIN)
        poll.register(_STDOUT, 0)
        while time.monotonic() < deadline:
            ready = dict(poll.poll(500))
            if ready.pop(answer, 0):
                data = os.read(answer, 1 << 16)
                if not data:
                    break
                text += data
            # A closed descriptor means nothing.
            if ready.get(_STDOUT, 0) & select.POLLNVAL:
                poll.unregister(_STDOUT)
                ready.pop(_STDOUT)
            if ready:
                if signals in ready:
                    os.read(signals, 100)
                if _STDOUT in ready:
                    poll.unregister(_STDOUT)
                if finish:
                    raise Interrupted
                if deadline == float("inf"):
                    deadline = time.monotonic() + wait
                    with contextlib.suppress(OSError):
                        os.write(order, b"i")
    return text


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """Yield a descriptor that becomes readable on a signal that would otherwise end the process."""
    source, target = os.pipe()
    os.set_blocking(target, False)
    before = {number: signal.signal(number, lambda *ignored: None) for number in _SIGNALS}
    signal.set_wakeup_fd(target)
    try:
        yield source
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(source)
        os.close(target)


def _leave_the_run() -> None:
    """Detach this process from the run: not its child, without its mark. Otherwise whoever terminates the run (the
    record callback, the next run) would terminate it, too.
    """
    if os.fork() != 0:
        os._exit(0)
    os.environ.pop(processes.MARKER, None)
    # /proc shows the memory that the kernel filled when the program started (proc_pid_stat(5), env_start).
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
        for signal_number in _SIGNALS:
            signal.signal(signal_number, control.interrupt)
        # A reader of the module's output must not wait for the supervisor.
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        try:
            result = work(control)
        except Exception:
            result = {"defect": traceback.format_exc()}
        with contextlib.suppress(OSError), os.fdopen(reply, "wb") as answer:
            answer.write(json.dumps(result).encode())
        code = 0
    finally:
        os._exit(code)
