"""Run programs so that nothing of them stays behind: whoever is killed, the rest is ended by who is left.

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
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NamedTuple, cast

from ansible_collections.devenv.lab.plugins.module_utils.node import files

MARKER = "DEVENV_SCRIPT"
RUN = "DEVENV_RUN"
TIMED_OUT = 124
_PAUSE = 0.1
# What may hold the output open after the script ended, e.g. a service that it started, is waited for so long.
_LINGER = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_CHILD_SUBREAPER = 36


class Interrupted(Exception):
    """The run was asked to end, or who asked for it is gone. ``left`` are processes that would not go."""

    def __init__(self, left: Sequence[str] = ()) -> None:
        self.left = list(left)
        super().__init__()


class Lost(RuntimeError):
    """The supervisor was killed, or did not answer; what it ran is ended."""


class Ended(NamedTuple):
    """How a program ended. ``left`` are descriptions of processes that would not go."""

    code: int
    seconds: float
    timed_out: bool
    left: list[str]


def adopt_orphans() -> bool:
    """Make this process the parent of what its descendants leave behind. False where the kernel cannot."""
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the command's name (proc(5)): state, parent, group, session, ..."""
    return files.read_text(f"/proc/{pid}/stat").rpartition(") ")[2].split()


def descendants(root: int) -> list[int]:
    """Living processes below ``root``, the nearest first."""
    children: dict[int, list[int]] = {}
    for pid in _all():
        fields = _stat(pid)
        if len(fields) > 1 and fields[0] not in ("Z", "X"):
            children.setdefault(int(fields[1]), []).append(pid)
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def marked(mark: str) -> list[int]:
    """Living processes whose environment carries ``DEVENV_SCRIPT=<mark>``, but this one and its parents."""
    wanted = f"{MARKER}={mark}".encode()
    spared = {os.getpid(), os.getppid()}
    return [
        pid for pid in _all() if pid not in spared and wanted in _environ(pid) and _stat(pid)[:1] not in (["Z"], [])
    ]


def _all() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _environ(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            return stream.read().split(b"\0")
    except OSError:
        return []


def _send(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def end(find: Callable[[], list[int]], grace: float, step: Callable[[float], None] = time.sleep) -> list[str]:
    """SIGTERM to all that ``find`` finds, SIGKILL ``grace`` s later to what is left, and to what came meanwhile. Return
    what would not go within 5 s more: ``["PID NAME"]``. ``step`` passes the time between two looks.
    """
    left = find()
    _send(left, signal.SIGTERM)
    # A stopped process takes no signal but SIGKILL until it is continued.
    _send(left, signal.SIGCONT)
    deadline = time.monotonic() + grace
    while left and time.monotonic() < deadline:
        step(_PAUSE)
        left = find()
    deadline = time.monotonic() + 5
    while left and time.monotonic() < deadline:
        _send(left, signal.SIGKILL)
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
        """Whether the run is to end."""
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
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            pass_fds=list(keep),
            start_new_session=True,
        )
        started(child.pid)
        output = cast(IO[bytes], child.stdout)
        pump = _Pump(output.fileno(), write)
        deadline = began + timeout if timeout > 0 else float("inf")
        left: list[str] = []
        timed_out = interrupted = False
        try:
            while child.poll() is None and not timed_out and not interrupted:
                pump.step(_PAUSE)
                timed_out = time.monotonic() >= deadline
                interrupted = self.stopped()
            if timed_out or interrupted or child.returncode != 0:
                left = end(lambda: _of(child), grace, pump.step)
            linger = time.monotonic() + _LINGER
            while pump.open and time.monotonic() < linger:
                pump.step(_PAUSE)
        finally:
            if child.poll() is None:
                _send([child.pid], signal.SIGKILL)
            code = child.wait()
            output.close()
        if interrupted:
            raise Interrupted(left)
        return Ended(TIMED_OUT if timed_out else code, time.monotonic() - began, timed_out, left)


def _of(child: subprocess.Popen[bytes]) -> list[int]:
    """What is left of a program: its group, and all that descends from this process."""
    child.poll()
    found = descendants(os.getpid())
    for pid in _all():
        fields = _stat(pid)
        if len(fields) > 3 and str(child.pid) in fields[2:4] and fields[0] not in ("Z", "X") and pid not in found:
            found.append(pid)
    _reap(child.pid)
    return found


def _reap(spared: int) -> None:
    """Collect adopted processes that ended; ``spared`` is collected by who started it."""
    for pid in _all():
        fields = _stat(pid)
        if pid != spared and len(fields) > 1 and fields[0] == "Z" and int(fields[1]) == os.getpid():
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)


class _Pump:
    """Takes what is written to a pipe, until nobody can write to it."""

    def __init__(self, source: int, write: Callable[[bytes], None]) -> None:
        self._source = source
        self._write = write
        self.open = True
        os.set_blocking(source, False)

    def step(self, seconds: float) -> None:
        """Take what comes within ``seconds``."""
        if not self.open:
            time.sleep(seconds)
            return
        if not select.select([self._source], [], [], seconds)[0]:
            return
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._source, 1 << 16)
            self.open = data != b""
            if data:
                self._write(data)


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
    end(lambda: [*descendants(os.getpid()), *marked(mark)], 0)
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
    os.environ.pop(RUN, None)
    # What /proc shows is the memory that the kernel filled when the program began (proc_pid_stat(5), env_start).
    fields = _stat(os.getpid())
    with contextlib.suppress(IndexError, ValueError):
        begin, length = int(fields[47]), int(fields[48]) - int(fields[47])
        if begin and 0 < length < 1 << 24:
            place = (b"\0" + ctypes.string_at(begin, length)).find(b"\0" + RUN.encode() + b"=")
            if place >= 0:
                ctypes.memset(begin + place, ord("_"), len(RUN))


def _supervise(work: Callable[[Control], dict[str, Any]], reply: int, control: Control) -> None:
    """The supervisor's life. Does not return."""
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
