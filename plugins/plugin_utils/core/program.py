"""Run a program: marked with the run's id, bounded in time, ended as a group."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

MARKER = "DEVENV_RUN"


@dataclass(frozen=True)
class Result:
    """What a finished program left: its exit code and both streams as text."""

    code: int
    stdout: str
    stderr: str


class ProgramFailed(Exception):
    """A program ended with a code other than 0, or did not end in time (``code`` is then None)."""

    def __init__(self, argv: Sequence[str], code: int | None, stderr: str) -> None:
        self.argv = list(argv)
        self.code = code
        self.stderr = stderr
        ending = f"ended with code {code}" if code is not None else "did not end in time"
        super().__init__(f"{argv[0]} {ending}: {stderr.strip()[-800:]}")


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | bytes | IO[bytes] | None = None,
    timeout: float = 120,
    check: bool = True,
    cwd: str | None = None,
) -> Result:
    """Run ``argv`` (no shell) and return its Result; ``timeout`` in seconds.

    Raises ProgramFailed for a code other than 0 (unless ``check`` is false) and when the time is over: the whole
    process group is ended then. ``stdin`` is what the program reads, or an open file. ``env`` adds to the environment.
    Raises FileNotFoundError for an unknown program.
    """
    data: bytes | None = None
    source: int | IO[bytes]
    if stdin is None:
        source = subprocess.DEVNULL
    elif isinstance(stdin, str | bytes):
        source, data = subprocess.PIPE, stdin.encode() if isinstance(stdin, str) else stdin
    else:
        source = stdin
    child = subprocess.Popen(
        list(argv),
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        start_new_session=True,
    )
    try:
        out, err = child.communicate(data, timeout=timeout)
    except subprocess.TimeoutExpired:
        _end_group(child)
        _ignored, err = child.communicate()
        raise ProgramFailed(argv, None, err.decode(errors="replace")) from None
    except BaseException:
        _end_group(child)
        child.communicate()
        raise
    result = Result(child.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
    if check and result.code != 0:
        raise ProgramFailed(argv, result.code, result.stderr or result.stdout)
    return result


def _end_group(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
