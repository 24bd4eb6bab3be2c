"""The plugin SshDirect of hosts with the methods and arguments of the original."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any, TypeVar

from devenv.testing.errors import CommandFailed, Unreachable
from devenv.testing.plugins import ssh

T = TypeVar("T")
SECONDS = 20 * 60.0


class SSHCalledProcessError(CommandFailed, CalledProcessError):
    """A command on a host ended with a code other than 0, with the attributes of CalledProcessError."""

    def __init__(self, error: CommandFailed) -> None:
        CalledProcessError.__init__(self, error.code, error.command, error.stdout, error.stderr)
        self.host, self.command, self.code, self.args = error.host, error.command, error.code, error.args

    def __reduce__(self) -> Any:
        return type(self), (CommandFailed(self.host, self.command, self.code, str(self.stdout), str(self.stderr)),)

    __str__ = Exception.__str__


class Original(ssh.SshDirect):
    """Methods of the original. Those that devenv has too keep the arguments of devenv."""

    def connect(self, port: int | None = None, timeout: float = 60) -> None:
        """Wait until the host answers; connections are opened when a command needs one."""
        self.ping(timeout)

    def disconnect(self) -> None:
        """Do nothing: commands share a connection, which closes itself."""

    def execute(
        self, command: str | Sequence[str], timeout: float = SECONDS, *, stdin: str | bytes = "", sudo: bool = False
    ) -> str:
        run = super().execute
        return self._converted(lambda: run(command, timeout=timeout, stdin=stdin, sudo=sudo))

    def run_script(
        self, script: str | os.PathLike[str], *arguments: Any, timeout: float = SECONDS, **options: Any
    ) -> str:
        """Run a script; a number after it is the timeout."""
        if len(arguments) == 1 and isinstance(arguments[0], int | float):
            timeout, arguments = arguments[0], ()
        run = super().run_script
        return self._converted(lambda: run(script, *arguments, timeout=timeout, **options))

    def run_parallel(
        self, commands: Iterable[str | Sequence[str]], max_jobs: int | None = None, *, timeout: float = SECONDS
    ) -> list[str]:
        """Run commands at the same time; ``max_jobs`` is not needed, as devenv limits their number."""
        run = super().run_parallel
        return self._converted(lambda: run(commands, timeout=timeout))

    def put(self, content: Any, target: str, **options: Any) -> None:
        """Copy one or more local files to the folder ``target``; write text that is not the path of a file."""
        paths = content if isinstance(content, list | tuple) else [content]
        if not all(isinstance(path, str | os.PathLike) and _is_file(path) for path in paths):
            super().put(content, target, **options)
            return
        for path in paths:
            self.upload(path, target)

    def put_contents(self, contents: str | bytes, remote_path: str) -> None:
        """Write a file of the host."""
        super().put(contents, remote_path, mode=0o644)

    def get_contents(self, remote_path: str) -> str:
        """Return the text of a file of the host."""
        return self.execute(["cat", remote_path])

    def download(self, localdir: Any, *remote_paths: Any, timeout: float = SECONDS) -> Path:
        """Copy files or folders of the host to the local path ``localdir``, which comes first, as in the original."""
        for path in remote_paths:
            super().download(os.fspath(path), localdir, timeout=timeout)
        return Path(localdir)

    def _converted(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except Unreachable:
            raise
        except CommandFailed as error:
            raise SSHCalledProcessError(error) from None


class SshDirect(Original):
    """Commands and files on one host."""


def _is_file(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a text that is too long for a path, or has a zero byte
        return False
