"""Tests with hardware run in a child process: when it crashes or hangs, the run goes on.

Before the first test pytest's process forks a *starter*, which has seen no fixture and no thread. It forks a
*child* for each group of tests that share an environment; a child runs them one after the other, fixtures of module
and session scope included, and sends their reports. What needs the run's own state (machines) it asks of the parent.

Messages are JSON behind their length (4 bytes, big endian), on a socket pair of each child.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

_PR_SET_PDEATHSIG = 1
# Between asking a child to end and killing it, in seconds.
PATIENCE = 15.0
_DUMP = signal.SIGUSR1


class ChildGone(Exception):
    """The child ended in the middle; the text says how."""


class Channel:
    """Messages over one socket."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message, default=str).encode()
        self._end.sendall(struct.pack(">I", len(data)) + data)

    def receive(self, seconds: float | None = None) -> dict[str, Any] | None:
        """The next message, or None when none began within ``seconds``. Raises EOFError at the end."""
        if seconds is not None and not select.select([self._end], [], [], max(0.0, seconds))[0]:
            return None
        (length,) = struct.unpack(">I", self._exactly(4))
        found: dict[str, Any] = json.loads(self._exactly(length))
        return found

    def _exactly(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            part = self._end.recv(count - len(found))
            if not part:
                raise EOFError
            found += part
        return bytes(found)

    def close(self) -> None:
        self._end.close()


# --- the starter and the child ----------------------------------------------------------------------------------------


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Of threads that others have started: the child uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _starter(orders: socket.socket, child: Callable[[Channel, int], None], parent: int) -> None:
    """Fork a child for each socket that comes, wait for its end, send its status."""
    _die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        data, descriptors, _, _ = socket.recv_fds(orders, 1, 2)
        if not data:
            os._exit(0)
        end, trace = socket.socket(fileno=descriptors[0]), descriptors[1]
        starter = os.getpid()
        pid = _fork()
        if pid == 0:
            orders.close()
            _die_with_parent(starter)
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            child(Channel(end), trace)
            os._exit(0)
        end.close()
        os.close(trace)
        orders.sendall(struct.pack(">i", pid))
        _, status = os.waitpid(pid, 0)
        # What it started may still run; nobody else will end it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        orders.sendall(struct.pack(">i", os.waitstatus_to_exitcode(status)))


class Remote:
    """In a child: what Manager is in the parent."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self._channel.send(message)
        answer = self._channel.receive()
        assert answer is not None
        return answer

    def acquire(self, index: int) -> tuple[dict[str, Any] | None, bool, str]:
        """Data of an allocation for the item, whether a test used it before, and the text of a failure."""
        answer = self._ask({"kind": "acquire", "index": index})
        return answer.get("allocation"), bool(answer.get("used")), str(answer.get("error", ""))

    @contextlib.contextmanager
    def installing(self, key: str) -> Iterator[bool]:
        todo = bool(self._ask({"kind": "install", "key": key})["todo"])
        try:
            yield todo
        except BaseException:
            self._ask({"kind": "installed", "ok": False})
            raise
        self._ask({"kind": "installed", "ok": True})


def run_child(session: pytest.Session, channel: Channel, trace: int) -> None:
    """Run the items that the parent names, until it names none."""
    from _pytest.runner import runtestprotocol

    faulthandler.register(_DUMP, file=trace, all_threads=True)
    hook = session.config.hook
    try:
        while True:
            order = channel.receive()
            if order is None or order["kind"] == "end":
                break
            item = session.items[order["index"]]
            following = session.items[order["next"]] if order["next"] is not None else None
            for report in runtestprotocol(item, log=False, nextitem=following):
                data = hook.pytest_report_to_serializable(config=session.config, report=report)
                channel.send({"kind": "report", "report": data})
            channel.send({"kind": "done", "stop": str(session.shouldstop or ""), "fail": str(session.shouldfail or "")})
    except EOFError:
        pass
    except pytest.exit.Exception as leave:
        _tear_down(session)
        channel.send({"kind": "exit", "reason": leave.msg, "code": leave.returncode})
    except KeyboardInterrupt:
        _tear_down(session)
        channel.send({"kind": "interrupted"})
    else:
        _tear_down(session)
    sys.stdout.flush()
    sys.stderr.flush()


def _tear_down(session: pytest.Session) -> None:
    """Finish the fixtures that are still up, as pytest does at the end of a session."""
    from _pytest.runner import pytest_sessionfinish

    with contextlib.suppress(Exception, KeyboardInterrupt):
        pytest_sessionfinish(session)


# --- the parent -------------------------------------------------------------------------------------------------------


@dataclass
class _Child:
    channel: Channel
    pid: int
    group: str
    trace: Any


class Runner:
    """Runs items in children. ``answer`` serves what a child asks for: message -> answer."""

    def __init__(self, session: pytest.Session, prepare: Callable[[Remote], None]) -> None:
        self._session = session
        self._prepare = prepare
        self._child: _Child | None = None
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        parent = os.getpid()

        def child(channel: Channel, trace: int) -> None:
            self._prepare(Remote(channel))
            run_child(self._session, channel, trace)

        self._pid = _fork()
        if self._pid == 0:
            try:
                ours.close()
                _starter(theirs, child, parent)
            finally:
                # Nothing of the parent's is to be run here, whatever happened.
                os._exit(3)
        theirs.close()
        self._orders = ours

    def run(
        self,
        index: int,
        following: int | None,
        group: str,
        limit: float,
        answer: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> Iterator[pytest.TestReport]:
        """Reports of one item. Raises ChildGone, which says how the child ended or that it was ended for its time."""
        if self._child is not None and self._child.group != group:
            self.end()
        child = self._child or self._new(group)
        self._child = child
        child.channel.send({"kind": "run", "index": index, "next": following})
        deadline = time.monotonic() + limit if limit else None
        while True:
            try:
                message = child.channel.receive(None if deadline is None else deadline - time.monotonic())
            except (EOFError, ConnectionError):
                raise ChildGone(self._how_it_ended()) from None
            if message is None:
                raise ChildGone(self._too_late(limit))
            kind = message["kind"]
            if kind == "report":
                yield self._report(message["report"])
            elif kind == "done":
                self._session.shouldstop = message["stop"] or self._session.shouldstop
                self._session.shouldfail = message["fail"] or self._session.shouldfail
                if following is None:
                    self.end()
                return
            elif kind == "exit":
                self._reap()
                pytest.exit(message["reason"], message["code"])
            elif kind == "interrupted":
                self._reap()
                raise KeyboardInterrupt
            else:
                began = time.monotonic()
                child.channel.send(answer(message))
                if deadline is not None:
                    # Machines have a time limit of their own.
                    deadline += time.monotonic() - began

    def _report(self, data: dict[str, Any]) -> pytest.TestReport:
        # JSON has no tuples, and pytest tells a skip's reason by its being one.
        for key in ("location", "longrepr"):
            data[key] = tuple(data[key]) if isinstance(data.get(key), list) else data.get(key)
        for key in ("sections", "user_properties"):
            data[key] = [tuple(one) for one in data.get(key) or ()]
        hook = self._session.config.hook
        report: pytest.TestReport = hook.pytest_report_from_serializable(config=self._session.config, data=data)
        return report

    def _new(self, group: str) -> _Child:
        try:
            return self._ordered(group)
        except (ConnectionError, ChildGone):
            # Somebody has killed the starter. Another is as good, though not as fresh.
            self._end_starter()
            self._start()
            return self._ordered(group)

    def _ordered(self, group: str) -> _Child:
        ours, theirs = socket.socketpair()
        trace = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the child
        with theirs:
            socket.send_fds(self._orders, [b"c"], [theirs.fileno(), trace.fileno()])
        return _Child(Channel(ours), self._status(), group, trace)

    def _end_starter(self) -> None:
        self._orders.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _status(self) -> int:
        data = b""
        while len(data) < 4:
            part = self._orders.recv(4 - len(data))
            if not part:
                raise ChildGone("the process that starts test processes is gone")
            data += part
        return int(struct.unpack(">i", data)[0])

    def _reap(self) -> int:
        """The exit code of the child, which ends."""
        child, self._child = self._child, None
        assert child is not None
        child.channel.close()
        child.trace.close()
        return self._status()

    def _how_it_ended(self) -> str:
        code = self._reap()
        if code < 0:
            return f"the test process was ended by {signal.Signals(-code).name}"
        return f"the test process ended with code {code} in the middle of the test"

    def _too_late(self, limit: float) -> str:
        """End a child whose time is over; what it was doing goes into the text."""
        child = self._child
        assert child is not None
        self._signal(_DUMP)
        time.sleep(0.3)
        child.trace.seek(0)
        stacks = child.trace.read().decode(errors="replace").strip()
        self._ask_to_end(signal.SIGINT)
        self._reap()
        return f"not done within {limit:g} s; the test process was ended. It was at:\n{stacks}"

    def _signal(self, number: int) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, number)

    def _ask_to_end(self, number: int) -> None:
        """Let the child finish its fixtures; kill it when that takes too long."""
        child = self._child
        assert child is not None
        self._signal(number)
        end = time.monotonic() + PATIENCE
        with contextlib.suppress(EOFError, ConnectionError):
            while time.monotonic() < end:
                child.channel.receive(end - time.monotonic())
        self._signal(signal.SIGKILL)

    def end(self, *, interrupt: bool = False) -> None:
        """End the child, if there is one, after its fixtures are finished."""
        if self._child is None:
            return
        if interrupt:
            self._ask_to_end(signal.SIGINT)
        else:
            with contextlib.suppress(ConnectionError):
                self._child.channel.send({"kind": "end"})
            end = time.monotonic() + PATIENCE * 4
            with contextlib.suppress(EOFError, ConnectionError):
                while time.monotonic() < end:
                    self._child.channel.receive(end - time.monotonic())
            self._signal(signal.SIGKILL)
        self._reap()

    def close(self, *, interrupt: bool = False) -> None:
        """End the child and the starter."""
        try:
            self.end(interrupt=interrupt)
        finally:
            self._end_starter()


def failed_reports(item: pytest.Item, text: str, seconds: float) -> list[pytest.TestReport]:
    """Reports of an item whose process could make none."""
    now = time.time()

    def report(when: Any, outcome: Any, longrepr: Any) -> pytest.TestReport:
        return pytest.TestReport(
            nodeid=item.nodeid, location=item.location, keywords={item.name: 1}, outcome=outcome, longrepr=longrepr,
            when=when, duration=seconds if when == "call" else 0.0, start=now - seconds, stop=now,
        )  # fmt: skip

    return [report("setup", "passed", None), report("call", "failed", text), report("teardown", "passed", None)]
