"""Run each test in a child process (--devenv-isolate): the run continues after a crash or a hang.

Before the first test, pytest's process forks a *starter*, which has no fixtures and no threads. The starter forks a
*child* for each test. A child runs pytest's own protocol with all its plugins, fixtures of module and session scope
included, and sends the reports. It requests machines from the parent, which has the state of the run.

Messages are tuples over a pipe per child: the kind, then its values.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection
from typing import IO, Any

import pytest

from devenv.testing import SESSION, limit
from devenv.testing.demand import Demand
from devenv.testing.objects import BaseConfig

_PR_SET_PDEATHSIG = 1
_DUMP = signal.SIGUSR1
_GONE = (EOFError, OSError)


class ChildGone(Exception):
    """The child ended during a test; the message states how."""


class Skipped(Exception):
    """A hook in the parent skips the test. pytest's own exception cannot be sent."""


# --- the starter and the child ----------------------------------------------------------------------------------------


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # About threads that other code has started: the child uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _starter(orders: Connection, child: Callable[[Connection, int], None], parent: int) -> None:
    """For each pipe and trace file from ``orders``, fork a child, send its pid, and when it has ended its exit code."""
    _die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            pipe, trace = Connection(reduction.recv_handle(orders)), reduction.recv_handle(orders)
        except EOFError:
            return
        starter = os.getpid()
        pid = _fork()
        if pid == 0:
            orders.close()
            _die_with_parent(starter)
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            child(pipe, trace)
            os._exit(0)
        pipe.close()
        os.close(trace)
        orders.send(pid)
        _, status = os.waitpid(pid, 0)
        # Programs that the test started may still run; nothing else would end them.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        orders.send(os.waitstatus_to_exitcode(status))


class RemoteManager:
    """The interface of the parent's Manager in a child."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def _request(self, kind: str, *values: Any) -> Any:
        self._pipe.send(("request", kind, *values))
        answer = self._pipe.recv()
        if isinstance(answer, Skipped):
            pytest.skip(str(answer))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def acquire(self, key: str, demand: Demand) -> tuple[BaseConfig, bool]:
        machines: tuple[BaseConfig, bool] = self._request("acquire", key, demand)
        return machines

    @contextlib.contextmanager
    def installing(self, key: str) -> Iterator[bool]:
        todo: bool = self._request("lock", key)
        try:
            yield todo
        finally:
            # Not a request: nobody answers a child that was interrupted.
            self._pipe.send(("unlock",))

    def mark_installed(self, key: str) -> None:
        self._request("mark_installed", key)

    def send_limit(self, seconds: float | None) -> None:
        """Send the remaining time of the test, or None while it does not count."""
        self._pipe.send(("limit", seconds))

    def send_report(self, config: pytest.Config, report: pytest.TestReport) -> None:
        """Send a report to the parent, whose plugins print and record it."""
        # pytest itself fails a test with failed subtests here.
        config.hook.pytest_report_teststatus(report=report, config=config)
        data = config.hook.pytest_report_to_serializable(config=config, report=report)
        # A test may record a value that cannot be sent.
        data["user_properties"] = [(name, _sendable(value)) for name, value in report.user_properties]
        self._pipe.send(("report", {name: _sendable(value) for name, value in data.items()}))

    def send_warning(self, message: warnings.WarningMessage, *values: Any) -> None:
        """Send a warning to the parent. ``values``: the other arguments of the hook pytest_warning_recorded."""
        if isinstance(_sendable(message), str):
            text = Warning(str(message.message))
            message = warnings.WarningMessage(text, Warning, message.filename, message.lineno)
        self._pipe.send(("warning", message, *values))


def _sendable(value: Any) -> Any:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        return str(value)
    return value


def run_child(session: pytest.Session, pipe: Connection, trace: int) -> None:
    """Run the item that the parent sends."""
    plugin = session.config.pluginmanager.getplugin(SESSION)
    # The parent's plugins print and record the results.
    for name in ("runtest_logstart", "runtest_logreport", "runtest_logfinish", "warning_recorded"):
        caller = getattr(session.config.hook, f"pytest_{name}")
        for extension in caller.get_hookimpls():
            if extension.plugin is not plugin:
                caller._remove_plugin(extension.plugin)
    faulthandler.register(_DUMP, file=trace, all_threads=True)
    try:
        item = session.items[pipe.recv()]
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        pipe.send(("done", session.shouldstop, session.shouldfail))
    except EOFError:
        pass
    except pytest.exit.Exception as leave:
        _tear_down(session)
        pipe.send(("exit", leave.msg, leave.returncode))
    except KeyboardInterrupt:
        _tear_down(session)
        pipe.send(("interrupted",))
    except BaseException:
        _tear_down(session)
        pipe.send(("failed", traceback.format_exc()))
    _save_coverage()
    _flush(session.config)


def _save_coverage() -> None:
    # Nothing else does: the child ends without pytest's end of a session.
    coverage = sys.modules.get("coverage")
    if coverage is not None and (current := coverage.Coverage.current()) is not None:
        current.save()


def _flush(config: pytest.Config) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if config.pluginmanager.hasplugin("terminalreporter"):
        config.get_terminal_writer().flush()


def _tear_down(session: pytest.Session) -> None:
    """Finish the fixtures that are still set up, as pytest does at the end of a session."""
    from _pytest.runner import pytest_sessionfinish

    with contextlib.suppress(Exception, KeyboardInterrupt):
        pytest_sessionfinish(session)


# --- the parent -------------------------------------------------------------------------------------------------------


@dataclass
class _Child:
    pipe: Connection
    pid: int
    trace: IO[bytes]

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Runner:
    """Runs items in children. ``prepare`` is called in a new child; ``answer`` returns the answer to a request."""

    def __init__(
        self, session: pytest.Session, prepare: Callable[[RemoteManager], None], answer: Callable[..., Any]
    ) -> None:
        self._session = session
        self._prepare = prepare
        self._answer = answer
        self._child: _Child | None = None
        # All children use the same folder for temporary files.
        if temporary := getattr(session.config, "_tmp_path_factory", None):
            temporary.getbasetemp()
        _flush(session.config)
        self._start()

    def _start(self) -> None:
        self._orders, theirs = Pipe()
        parent = os.getpid()

        def child(pipe: Connection, trace: int) -> None:
            self._prepare(RemoteManager(pipe))
            run_child(self._session, pipe, trace)

        self._pid = _fork()
        if self._pid == 0:
            code = 3
            try:
                self._orders.close()
                _starter(theirs, child, parent)
                code = 0
            finally:
                # The code of the parent must never run here.
                os._exit(code)
        theirs.close()

    def run(self, index: int, seconds: float) -> Iterator[pytest.TestReport]:
        """Yield the reports of an item. Raises ChildGone if the child ended or was stopped.

        The child itself limits the test to ``seconds``, which begin again if another plugin repeats the test. One that
        does not end after that is stopped.
        """
        child = self._child = self._new()
        child.pipe.send(index)
        deadline = time.monotonic() + seconds + limit.PATIENCE if seconds else None
        config = self._session.config
        while True:
            try:
                if deadline is not None and not child.pipe.poll(max(0.0, deadline - time.monotonic())):
                    raise ChildGone(self._stop_late(child, seconds))
                kind, *values = child.pipe.recv()
            except _GONE:
                raise ChildGone(self._how_it_ended()) from None
            if kind == "report":
                yield config.hook.pytest_report_from_serializable(config=config, data=values[0])
            elif kind == "warning":
                names = ("warning_message", "when", "nodeid", "location")
                config.hook.pytest_warning_recorded.call_historic(kwargs=dict(zip(names, values, strict=True)))
            elif kind == "done":
                self._session.shouldstop = values[0] or self._session.shouldstop
                self._session.shouldfail = values[1] or self._session.shouldfail
                self._finish(child)
                return
            elif kind == "exit":
                self._reap()
                pytest.exit(*values)
            elif kind == "interrupted":
                self._reap()
                raise KeyboardInterrupt
            elif kind == "failed":
                self._reap()
                raise ChildGone(values[0])
            elif kind == "limit":
                deadline = None if values[0] is None else time.monotonic() + values[0] + limit.PATIENCE
            elif kind == "request":
                answer = self._answer(*values)
                # The child may have ended in the meantime.
                with contextlib.suppress(*_GONE):
                    child.pipe.send(answer)
            else:
                self._answer(kind)

    def _new(self) -> _Child:
        try:
            return self._order()
        except _GONE:
            # The starter was killed. Another one works as well, but is forked from a process that has run tests.
            self._end_starter()
            self._start()
            return self._order()

    def _order(self) -> _Child:
        ours, theirs = Pipe()
        trace = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the child
        with theirs:
            for file in (theirs, trace):
                reduction.send_handle(self._orders, file.fileno(), self._pid)
        return _Child(ours, self._orders.recv(), trace)

    def _end_starter(self) -> None:
        self._orders.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _reap(self) -> int:
        """Return the exit code of the child, which has ended or is about to."""
        child, self._child = self._child, None
        assert child is not None
        child.pipe.close()
        child.trace.close()
        try:
            code: int = self._orders.recv()
        except _GONE:
            raise ChildGone("the process that starts test processes was killed") from None
        return code

    def _how_it_ended(self) -> str:
        code = self._reap()
        if code < 0:
            return f"the test process was killed by {signal.Signals(-code).name}"
        return f"the test process exited with code {code} during the test"

    def _stop_late(self, child: _Child, seconds: float) -> str:
        """Stop a child whose time is over; return a message with the stacks of its threads."""
        child.signal(_DUMP)
        time.sleep(0.3)
        child.trace.seek(0)
        stacks = child.trace.read().decode(errors="replace").strip()
        child.signal(signal.SIGINT)
        self._finish(child)
        return f"the test took longer than {seconds:g} s; its process was stopped. It was at:\n{stacks}"

    def _finish(self, child: _Child) -> None:
        """Let the child finish its fixtures; kill it if that takes too long."""
        end = time.monotonic() + limit.PATIENCE
        with contextlib.suppress(*_GONE):
            while child.pipe.poll(max(0.0, end - time.monotonic())):
                child.pipe.recv()
        child.signal(signal.SIGKILL)
        self._reap()

    def close(self) -> None:
        """End the child of an interrupted run, after its fixtures are finished, and the starter."""
        try:
            if self._child is not None:
                self._child.signal(signal.SIGINT)
                self._finish(self._child)
        finally:
            self._end_starter()


def failed_reports(item: pytest.Item, text: str, seconds: float, last: str) -> list[pytest.TestReport]:
    """Return the remaining reports of an item whose process ended; ``last``: the last phase that it has reported."""
    now = time.time()

    def report(when: Any, outcome: Any, longrepr: Any = None) -> pytest.TestReport:
        return pytest.TestReport(
            nodeid=item.nodeid, location=item.location, keywords={item.name: 1}, outcome=outcome, longrepr=longrepr,
            when=when, duration=seconds if outcome == "failed" else 0.0, start=now - seconds, stop=now,
        )  # fmt: skip

    if last == "call":
        return [report("teardown", "failed", text)]
    reports = [report("call", "failed", text), report("teardown", "passed")]
    return reports if last == "setup" else [report("setup", "passed"), *reports]
