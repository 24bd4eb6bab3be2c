"""Let a shell source files first, and dump the variables that a script exports."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence

_FIRST = 256  # bytes of the first line that Linux reads (BINPRM_BUF_SIZE)
_SHELLS = {"bash": "bash", "sh": "sh", "dash": "sh", "ash": "sh", "ksh": "sh"}


def first_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(_FIRST)
    except OSError:
        return b""


def interpreter(first: bytes) -> list[str]:
    """Return the argv before a script that begins with ``first``: as Linux does for ``#!``, empty for a binary,
    otherwise bash.
    """
    if first.startswith(b"\x7fELF"):
        return []
    if not first.startswith(b"#!"):
        return ["bash"]
    words = first[2:].split(b"\n")[0].decode(errors="replace").strip().split(None, 1)
    return [word.strip() for word in words] or ["bash"]


def kind(argv: Sequence[str]) -> str:
    """Return ``bash``, ``sh`` (any other POSIX shell) or "" for an interpreter's argv."""
    words = [word for argument in argv for word in argument.split()]
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return _SHELLS.get(os.path.basename(words[0]), "") if words else ""


# Files are checked first, since bash continues after a syntax error in a file that it sources.
_SOURCE = """
__files=("$@"); set --; set -a
for __file in "${__files[@]}"; do
  "$BASH" -n "$__file" || exit 65
  . "$__file"
done
unset __files __file
ENV -0 > DUMP
"""


def read_dump(path: str) -> dict[str, str] | None:
    try:
        with open(path, "rb") as stream:
            entries = stream.read().split(b"\0")
    except OSError:
        return None
    pairs = [entry.decode("utf-8", "surrogateescape").partition("=") for entry in entries if b"=" in entry]
    return {name: value for name, _equals, value in pairs}


# bash sources this before a script's first line. It dumps the exported variables when the script ends, even if the
# script sets its own trap for EXIT, and keeps the exit code.
_BASH = """
unset BASH_ENV
RESTORE
__devenv_dump() { local code=$?; [ "$BASHPID" != "$$" ] || (umask 077; exec ENV -0 > DUMP); return $code; }
__devenv_hold() {
  [ "$BASHPID" = "$$" ] || return 0
  local words
  eval "words=($(builtin trap -p EXIT))"
  builtin trap -- "__devenv_dump; ${words[2]-}" EXIT
}
trap() {
  builtin trap "$@" || return
  case " $* " in *" EXIT "* | *" exit "* | *" SIGEXIT "* | *" 0 "*) __devenv_hold ;; esac
}
__devenv_hold
"""

# Other shells source nothing first, so a shell that has already set the trap sources the script.
_SH = """
__devenv_dump() { __devenv_code=$?; (umask 077; exec ENV -0 > DUMP); return $__devenv_code; }
trap __devenv_dump EXIT
. "$0"
__devenv_end=$?
__devenv_dump
exit $__devenv_end
"""


def _filled(text: str, dump: str, restore: str = "") -> str:
    env = shutil.which("env") or "/usr/bin/env"
    return (
        text.replace("RESTORE", restore).replace("ENV -0", f"{shlex.quote(env)} -0").replace("DUMP", shlex.quote(dump))
    )


def sourcing(files: Sequence[str], dump: str) -> list[str]:
    """Return the argv that sources ``files`` and writes the resulting environment to ``dump``."""
    return ["bash", "-c", _filled(_SOURCE, dump), "bash", *files]


def run(
    argv: Sequence[str], file: str, arguments: Sequence[str], env: dict[str, str], folder: str, dump: str
) -> tuple[list[str], dict[str, str]]:
    """Return the argv and environment of a script that writes its exported variables to ``dump`` (empty: to run it as
    it is). ``argv`` is its interpreter's; ``folder`` is private.
    """
    plain = [*argv, file, *arguments]
    if not dump:
        return plain, env
    if kind(argv) == "bash":
        prelude = os.path.join(folder, "prelude")
        before = env.get("BASH_ENV", "")
        restore = f"export BASH_ENV={shlex.quote(before)}; . {shlex.quote(before)}" if before else ""
        text = _filled(_BASH, dump, restore).encode("utf-8", "surrogateescape")
        with os.fdopen(os.open(prelude, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(text)
        return plain, {**env, "BASH_ENV": prelude}
    return [*argv, "-c", _filled(_SH, dump), file, *arguments], env
