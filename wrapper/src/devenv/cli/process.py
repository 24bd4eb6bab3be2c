"""What this process needs before a command, whatever the user's shell gave it: open standard streams, UTF-8, and a
working directory that exists. And its replacement by another program.
"""

from __future__ import annotations

import io
import locale
import os
import sys

# Whether the working directory was removed. Relative paths then refer to the root directory.
lost_directory = False


def prepare() -> None:
    """Prepare this process, or replace it with one that uses UTF-8."""
    _open_streams()
    _use_utf8()
    _leave_removed_directory()


def _open_streams() -> None:
    """Open /dev/null for each closed standard stream. Otherwise the next file would get its number, and with that the
    output of other programs.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
    sys.stderr = sys.stderr or io.TextIOWrapper(io.FileIO(2, "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path can be any bytes


def _use_utf8() -> None:
    """Start again in UTF-8 mode if the locale has another encoding: profiles and messages are in UTF-8."""
    if locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8") and sys.executable:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _leave_removed_directory() -> None:
    global lost_directory
    try:
        os.getcwd()
    except FileNotFoundError:
        lost_directory = True
        os.chdir("/")


def replace(argv: list[str], env: dict[str, str] | None = None) -> None:
    """Replace this process with the program, which then has the terminal, the signals and the exit code."""
    from devenv import errors

    try:
        os.execvpe(argv[0], argv, env or dict(os.environ))
    except OSError as error:
        raise errors.UsageError(f"cannot run {argv[0]}: {error.strerror}") from None
