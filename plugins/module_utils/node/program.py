"""Run programs on a node with a time limit, and keep secrets out of logs and messages."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.node.redact import RedactedLines

TIMED_OUT = 124
NOT_STARTED = 127
LINGER = 1.0  # seconds in which processes that a program left may hold its pipes open
STREAMS = ("stdout", "stderr")
_TICK = 0.1


class ProgramResult(NamedTuple):
    """The result of a program. ``code`` is 124 if it timed out and 127 if it could not be started.

    ``stdout``, ``stderr`` and ``output`` may contain secrets; ``lines``, ``text`` and ``complaint`` do not.
    """

    code: int
    stdout: str = ""
    stderr: str = ""
    blocks: Sequence[tuple[str, bytes]] = ()  # stream and data, in order
    secrets: tuple[str, ...] = ()
    started: bool = True

    @property
    def output(self) -> str:
        """Return both streams in their original order."""
        return b"".join(data for _stream, data in self.blocks).decode(errors="replace") or self.stdout + self.stderr

    @property
    def lines(self) -> list[str]:
        """Return the lines of both streams."""
        streams = {name: RedactedLines(self.secrets) for name in STREAMS}
        blocks = self.blocks or (("stdout", self.stdout.encode()), ("stderr", self.stderr.encode()))
        lines = [line for name, data in blocks for line in streams[name].feed(data)]
        return lines + [line for stream in streams.values() for line in stream.end()]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def json(self, default: Any = None) -> Any:
        """Return the document on standard output, ``default`` if there is none."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            return default

    @property
    def complaint(self) -> str:
        """Return standard error, for a message."""
        return RedactedLines(self.secrets).clean(self.stderr.strip())


def run(
    argv: Sequence[str],
    *,
    timeout: float = 30,
    data: str | None = None,
    log: str = "",
    append: bool = False,
    secrets: Sequence[str] = (),
    cwd: str | None = None,
    merged: bool = False,
) -> ProgramResult:
    """Run a program without a shell, with ``data`` as its input. Its process group is killed after ``timeout`` s.

    Every line of its output is written to the file ``log`` at once, redacted, with the seconds since the start or, with
    ``append``, the time of day. ``secrets`` are further texts to redact; ``merged`` keeps the exact order of both
    streams, as one ``stdout``. Raises OSError only for the log.
    """
    started_at = time.monotonic()
    blocks: list[tuple[str, bytes]] = []
    streams = {name: RedactedLines(secrets) for name in STREAMS}
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(open(log or os.devnull, "a" if append else "w", encoding="utf-8"))
        stdin = stack.enter_context(_input(data)) if data is not None else subprocess.DEVNULL
        try:
            child = start(argv, merged, stdin=stdin, cwd=cwd, env=_environment())
        except OSError as error:
            cause = f"{argv[0]}: {error.strerror}"
            return ProgramResult(NOT_STARTED, stderr=cause, secrets=tuple(secrets), started=False)

        def write(complete: Sequence[str]) -> None:
            stamp = time.strftime("%H:%M:%S") if append else f"{time.monotonic() - started_at:7.2f}"
            sink.writelines(f"{stamp} {line}\n" for line in complete)
            sink.flush()

        def take(stream: str, data: bytes) -> None:
            blocks.append((stream, data))
            if log:
                write(streams[stream].feed(data))

        with Pipes(child, take) as pipes:
            while child.poll() is None and time.monotonic() < started_at + timeout:
                pipes.step(_TICK)
            is_late = child.poll() is None
            if not is_late:
                pipes.drain()
        code = child.wait()
        if is_late:
            code = TIMED_OUT
            for stream, piece in dict(blocks).items():  # the last piece of each
                take(stream, b"" if piece.endswith(b"\n") else b"\n")
            late = f"{os.path.basename(argv[0])} did not end within {timeout:g} s and was killed\n"
            take("stdout" if merged else "stderr", late.encode())
        write([line for stream in streams.values() for line in stream.end()])
    out, complaint = (
        b"".join(data for stream, data in blocks if stream == name).decode(errors="replace") for name in STREAMS
    )
    return ProgramResult(code, out, complaint, blocks, tuple(secrets))


def _input(text: str) -> IO[bytes]:
    """Return a file in memory with ``text``; unlike a pipe, it takes any length at once."""
    stream = os.fdopen(os.memfd_create("input"), "w+b")
    stream.write(text.encode("utf-8", "surrogateescape"))
    stream.seek(0)
    return stream


def _environment() -> dict[str, str]:
    """Return the environment in English, since messages are parsed, and without proxies, which a login on the node may
    set: kubectl, kubeadm and gravity connect to the cluster only, and kubeadm would hand the proxies on to the control
    plane.
    """
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | {
        "LC_ALL": "C.UTF-8"
    }


def start(argv: Sequence[str], merged: bool, **more: Any) -> subprocess.Popen[bytes]:
    """Start a program in a new session; ``merged``: with both streams as one. Raises OSError."""
    errors = subprocess.STDOUT if merged else subprocess.PIPE
    return subprocess.Popen(list(argv), stdout=subprocess.PIPE, stderr=errors, start_new_session=True, **more)


class Pipes:
    """Passes the output of a program to ``take``, with the stream's name. Leaving the block kills the process group."""

    def __init__(self, child: subprocess.Popen[bytes], take: Callable[[str, bytes], None]) -> None:
        self._child, self._take = child, take
        self._selector = selectors.DefaultSelector()
        for name, pipe in (("stdout", child.stdout), ("stderr", child.stderr)):
            if pipe is not None:
                self._selector.register(pipe, selectors.EVENT_READ, name)

    def __enter__(self) -> Pipes:
        return self

    def step(self, seconds: float) -> None:
        """Pass on the output of the next ``seconds``."""
        if not self._selector.get_map():
            if self._child.returncode is not None:
                time.sleep(seconds)
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(seconds)
        for key, _events in self._selector.select(seconds) if self._selector.get_map() else ():
            data = os.read(key.fd, 1 << 16)
            if data:
                self._take(key.data, data)
            else:
                self._selector.unregister(key.fileobj)

    def drain(self) -> None:
        """Pass on the remaining output of a program that has ended."""
        deadline = time.monotonic() + LINGER
        while self._selector.get_map() and time.monotonic() < deadline:
            self.step(_TICK)

    def __exit__(self, *args: Any) -> None:
        if self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self._selector.close()
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()


def run_all(calls: Mapping[str, Sequence[str]], timeout: float = 30) -> dict[str, ProgramResult]:
    """Run programs in parallel; return their results by the same names."""
    results: dict[str, ProgramResult] = {}

    def call(name: str, argv: Sequence[str]) -> None:
        results[name] = run(argv, timeout=timeout)

    threads = [threading.Thread(target=call, args=item) for item in calls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
