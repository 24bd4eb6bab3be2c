"""Run programs on a node: bounded in time, and without secrets in what is kept of their output."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.node.redact import RedactedLines

TIMED_OUT = 124
NOT_STARTED = 127
LINGER = 1.0  # seconds that what a program left running may hold its pipes open
_TICK = 0.1


class ProgramResult(NamedTuple):
    """How a program ended. ``code`` is 124 when its time was over and 127 when it could not be started. ``stdout``,
    ``stderr`` and ``output`` may hold secrets; ``lines``, ``text`` and ``complaint`` hold none.
    """

    code: int
    stdout: str = ""
    stderr: str = ""
    blocks: Sequence[tuple[str, bytes]] = ()  # stream and data, as they came
    secrets: tuple[str, ...] = ()
    started: bool = True

    @property
    def output(self) -> str:
        """Both streams as they came."""
        return b"".join(data for _stream, data in self.blocks).decode(errors="replace") or self.stdout + self.stderr

    @property
    def lines(self) -> list[str]:
        """The lines of both streams."""
        lines = _Lines(self.secrets)
        blocks = self.blocks or (("stdout", self.stdout.encode()), ("stderr", self.stderr.encode()))
        return [line for stream, data in blocks for line in lines.feed(stream, data)] + lines.end()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def complaint(self) -> str:
        """Standard error, for a message."""
        return RedactedLines(self.secrets).clean(self.stderr.strip())


class _Lines:
    """Whole lines without secrets, of two streams whose pieces come in turns."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._streams = {name: RedactedLines(secrets) for name in ("stdout", "stderr")}

    def feed(self, stream: str, data: bytes) -> list[str]:
        return self._streams[stream].feed(data)

    def end(self) -> list[str]:
        return [line for stream in self._streams.values() for line in stream.end()]


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
    """Run a program without a shell, with ``data`` as its input. Its whole group is ended after ``timeout`` s.

    Every line of its output goes redacted into the file ``log`` as it comes, after its second or, with ``append``, its
    time of day. ``secrets`` are further texts that must not appear there; ``merged`` keeps the order of both streams
    exactly, as one ``stdout``. Raises OSError for the log alone.
    """
    began = time.monotonic()
    blocks: list[tuple[str, bytes]] = []
    lines = _Lines(secrets)
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(open(log or os.devnull, "a" if append else "w", encoding="utf-8"))
        given = stack.enter_context(_input(data)) if data is not None else subprocess.DEVNULL
        try:
            child = subprocess.Popen(
                list(argv),
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merged else subprocess.PIPE,
                start_new_session=True,
                cwd=cwd,
            )
        except OSError as error:
            why = f"{argv[0]}: {error.strerror}"
            return ProgramResult(NOT_STARTED, stderr=why, secrets=tuple(secrets), started=False)

        def note(whole: Sequence[str]) -> None:
            stamp = time.strftime("%H:%M:%S") if append else f"{time.monotonic() - began:7.2f}"
            sink.writelines(f"{stamp} {line}\n" for line in whole)
            sink.flush()

        def take(stream: str, data: bytes) -> None:
            blocks.append((stream, data))
            if log:
                note(lines.feed(stream, data))

        try:
            is_late = _read(child, began + timeout, take)
        finally:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            code = child.wait()
            for pipe in (child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()
        if is_late:
            code = TIMED_OUT
            for stream, piece in dict(blocks).items():  # the last piece of each
                take(stream, b"" if piece.endswith(b"\n") else b"\n")
            late = f"{os.path.basename(argv[0])} did not end in {timeout:g} s and was ended\n"
            take("stdout" if merged else "stderr", late.encode())
        note(lines.end())
    streams = (b"".join(data for stream, data in blocks if stream == name) for name in ("stdout", "stderr"))
    out, complaint = (data.decode(errors="replace") for data in streams)
    return ProgramResult(code, out, complaint, blocks, tuple(secrets))


def _input(text: str) -> IO[bytes]:
    """Return a file in memory to read ``text`` from: unlike a pipe, it takes any length at once."""
    stream = os.fdopen(os.memfd_create("input"), "w+b")
    stream.write(text.encode("utf-8", "surrogateescape"))
    stream.seek(0)
    return stream


def _read(child: subprocess.Popen[bytes], deadline: float, take: Callable[[str, bytes], None]) -> bool:
    """Hand what a program writes to ``take`` until it has ended; return whether ``deadline`` came first."""
    ended = float("inf")
    with selectors.DefaultSelector() as pipes:
        for name, pipe in (("stdout", child.stdout), ("stderr", child.stderr)):
            if pipe is not None:
                pipes.register(pipe, selectors.EVENT_READ, name)
        while pipes.get_map():
            now = time.monotonic()
            if child.poll() is not None:
                ended = min(ended, now)
                if now - ended > LINGER:
                    return False
            elif now >= deadline:
                return True
            for key, _events in pipes.select(_TICK):
                data = os.read(key.fd, 1 << 16)
                if data:
                    take(key.data, data)
                else:
                    pipes.unregister(key.fileobj)
    try:
        child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return True
    return False


def run_all(calls: Mapping[str, Sequence[str]], timeout: float = 30) -> dict[str, ProgramResult]:
    """Run programs side by side; return their results by the same names."""
    results: dict[str, ProgramResult] = {}

    def one(name: str, argv: Sequence[str]) -> None:
        results[name] = run(argv, timeout=timeout)

    threads = [threading.Thread(target=one, args=call) for call in calls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
