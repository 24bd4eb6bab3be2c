"""Run long programs that are read line by line; the kernel ends them when their caller was killed."""

from __future__ import annotations

import collections
import os
import re
import selectors
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed

TAIL = 60
# setpriv is part of util-linux, an essential package of Debian. Without it, the program survives a killed caller.
_BOUND = ("setpriv", "--pdeathsig", "TERM", "--") if shutil.which("setpriv") else ()


# Output of a failed program -> reason. The first pattern that matches one of its last lines decides.
_CAUSES = (
    (r"[Nn]o space left on device|disk quota exceeded", "bundle_disk_full"),
    (r"SECURITY ERROR|checksum mismatch|missing go\.sum entry|do not match the hashes", "bundle_wrong_digest"),
    (
        r"no such host|[Cc]onnection (refused|reset|timed out|failed)|Could not (resolve|connect)|Failed to fetch|"
        r"i/o timeout|network is unreachable|TLS handshake timeout|proxyconnect|server misbehaving|unexpected EOF|"
        r"Temporary failure|no route to host|NewConnectionError|Max retries exceeded|\b50[234] ",
        "bundle_unreachable",
    ),
    (r"404 Not Found|410 Gone|unknown revision|No matching distribution", "bundle_not_found"),
)


def stream(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] = lambda _line: None,
    on_wait: Callable[[], None] = lambda: None,
    timeout: float = 3600,
) -> list[str]:
    """Run ``argv``; ``on_line`` gets each line of both streams, ``on_wait`` is called every second without output.

    Returns the last lines. Raises ProgramFailed (its ``stderr`` has the last lines), FileNotFoundError, and what the
    callbacks raise, which ends the program.
    """
    if shutil.which(argv[0]) is None:
        raise FileNotFoundError(argv[0])
    tail: collections.deque[str] = collections.deque(maxlen=TAIL)
    failures: list[Exception] = []

    def read(pipe: IO[bytes]) -> None:
        try:
            for line in _lines(pipe, on_wait):
                tail.append(line)
                on_line(line)
        except Exception as error:
            failures.append(error)
            raise

    try:
        program.run([*_BOUND, *argv], env=env, cwd=cwd, stdout=read, merge_stderr=True, timeout=timeout)
    except ProgramFailed as error:
        if failures:
            raise failures[0] from None
        raise ProgramFailed(argv, error.code, "\n".join(tail)) from None
    return list(tail)


def failure(what: str, error: ProgramFailed, default: str) -> DevenvError:
    """Return the DevenvError for the last lines of a failed program; ``default`` is the reason if no cause matches."""
    for pattern, reason in _CAUSES:
        lines = [line for line in error.stderr.splitlines() if re.search(pattern, line)]
        if lines:
            return DevenvError(reason, f"{what}: {lines[-1].strip()[:400]}")
    ending = "did not end in time" if error.code is None else f"ended with code {error.code}"
    lines = [line for line in error.stderr.splitlines() if line.strip() and not line.startswith("go: downloading")]
    return DevenvError(default, f"{what} {ending}: {' / '.join(lines[-3:])[:600]}")


def _lines(pipe: IO[bytes], on_wait: Callable[[], None]) -> Iterator[str]:
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(1):
                on_wait()
                continue
            block = os.read(pipe.fileno(), 1 << 16)
            *lines, rest = (rest + block).split(b"\n")
            lines += [rest] if rest and not block else []
            yield from (line.decode(errors="replace").rstrip() for line in lines)
            if not block:
                return
