"""Run a program: marked with the run's id, bounded in time, killed with its process group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact

MARKER = "DEVENV_RUN"

# Reads a program's output while it runs. If it returns True, it has read enough, and the program is killed.
Reader = Callable[[IO[bytes]], bool | None]
# Writes a program's input while it runs.
Writer = Callable[[IO[bytes]], object]


@dataclass(frozen=True)
class Result:
    """Exit code and output of a finished program."""

    code: int
    stdout: str
    stderr: str


class ProgramFailed(Exception):
    """A program ended with a code other than 0, or did not end in time (``code`` is None then).

    ``stderr`` is redacted. ``__cause__`` is the error of a failed reader or writer.
    """

    def __init__(self, argv: Sequence[str], code: int | None, stderr: str) -> None:
        self.argv = list(argv)
        self.code = code
        self.stderr = redact(stderr)
        ending = f"ended with code {code}" if code is not None else "did not end in time"
        super().__init__(f"{argv[0]} {ending}: {self.stderr.strip()[-800:]}")

    @property
    def last_line(self) -> str:
        """The last line of the error output, or an empty text."""
        lines = [" ".join(line.split()) for line in self.stderr.splitlines() if line.strip()]
        return lines[-1][-4000:] if lines else ""


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str | None] | None = None,
    stdin: str | bytes | IO[bytes] | Writer | None = None,
    stdout: Reader | None = None,
    merge_stderr: bool = False,
    timeout: float = 120,
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
) -> Result:
    """Run ``argv`` (no shell) and return its Result; ``timeout`` in seconds.

    ``stdin`` is the program's input: data, an open file, or a function that writes it. ``stdout`` reads the output
    while the program runs; the Result then has none. ``env`` extends the environment; None removes a
    variable. Raises ProgramFailed for a code
    other than 0 (unless ``check`` is false), if ``stdin`` or ``stdout`` raises, and after ``timeout``: the whole
    process group is killed then. Raises FileNotFoundError for an unknown program.
    """
    source, write = _input(stdin)
    child = subprocess.Popen(
        list(argv),
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merge_stderr else subprocess.PIPE,
        # Its output is parsed: in English, whatever the user's locale is.
        env={k: value for k, value in {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}.items() if value is not None},
        cwd=cwd,
        start_new_session=True,
    )
    late, enough = threading.Event(), threading.Event()
    texts = {"stdout": b"", "stderr": b""}
    failures: list[Exception] = []

    def kill(reason: threading.Event | None = None) -> None:
        if reason:
            reason.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    def work(use: Callable[[IO[bytes]], object], pipe: IO[bytes]) -> None:
        try:
            with pipe:
                use(pipe)
        except BrokenPipeError:
            return  # A program that does not read all its input reports the reason itself.
        except Exception as error:
            failures.append(error)
            kill()

    def keep(name: str) -> Callable[[IO[bytes]], None]:
        return lambda pipe: texts.update({name: pipe.read()})

    def read(pipe: IO[bytes]) -> None:
        if stdout is not None and stdout(pipe):
            kill(enough)
        pipe.read()

    timer = threading.Timer(timeout, kill, [late])
    jobs = [(write, child.stdin), (keep("stderr"), child.stderr)]
    threads = [timer, *(threading.Thread(target=work, args=(use, pipe)) for use, pipe in jobs if use and pipe)]
    try:
        for thread in threads:
            thread.daemon = True
            thread.start()
        if child.stdout is None:
            raise AssertionError("stdout is a pipe")
        work(read if stdout else keep("stdout"), child.stdout)
        for thread in threads[1:]:
            thread.join()
        code = child.wait()
    except BaseException:
        kill()
        child.wait()
        raise
    finally:
        timer.cancel()
    out, err = (texts[name].decode(errors="replace") for name in ("stdout", "stderr"))
    if late.is_set():
        raise ProgramFailed(argv, None, err)
    if failures:
        raise ProgramFailed(argv, code, err or f"{type(failures[0]).__name__}: {failures[0]}") from failures[0]
    if check and code != 0 and not enough.is_set():
        raise ProgramFailed(argv, code, err or out)
    return Result(code, out, err)


def _input(stdin: str | bytes | IO[bytes] | Writer | None) -> tuple[int | IO[bytes], Writer | None]:
    if stdin is None:
        return subprocess.DEVNULL, None
    if isinstance(stdin, str | bytes):
        data = stdin.encode() if isinstance(stdin, str) else stdin
        return subprocess.PIPE, lambda pipe: pipe.write(data)
    return (subprocess.PIPE, stdin) if callable(stdin) else (stdin, None)
