"""The host plugin SshDirect: OpenSSH's programs with the environment's keys and host keys.

Connections are shared (ControlMaster), so a command costs one round trip. The host enforces a command's time limit as
well, with ``timeout`` of coreutils: nothing continues to run there after the test has given up.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program, wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import Result

from devenv.testing.errors import CommandFailed, CommandTimeout, SeveralFailed, TestingError, Unreachable

if TYPE_CHECKING:
    from devenv.testing.objects import Host

T = TypeVar("T")
SECONDS = 600.0
# Seconds between the time limit of a command on the host and that of ssh here.
GRACE = 15.0
_TIMED_OUT = (124, 137)
_SSH_FAILED = 255
_MULTIPLEXED = (
    "-o", "ControlMaster=auto", "-o", "ControlPersist=120", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10",
    "-o", "ServerAliveCountMax=3", "-o", "LogLevel=ERROR",
)  # fmt: skip
# Program next to a password file, from which ssh gets the password (OpenSSH 8.4).
ASKPASS = "askpass"


class SshDirect:
    """Commands and files on one host, as the user of the host (root on nodes that devenv created)."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._password_file = host.password_file
        batch = () if self._password_file else ("-o", "BatchMode=yes")
        connection = host.connection
        self.connection = replace(connection, options=(*connection.options, *batch, *_MULTIPLEXED))
        self._background: list[Background] = []

    # --- commands ---

    def execute(
        self, command: str | Sequence[str], *, timeout: float = SECONDS, stdin: str | bytes = "", sudo: bool = False
    ) -> str:
        """Return stdout of ``command``: a line for the host's shell, or a list of arguments.

        Raises CommandFailed for a code other than 0, Unreachable if ssh fails, CommandTimeout after the ``timeout``.
        """
        result = self.run(command, timeout=timeout, stdin=stdin, sudo=sudo)
        if result.code:
            raise CommandFailed(self._host.name, _line(command), result.code, result.stdout, result.stderr)
        return result.stdout

    def run(
        self, command: str | Sequence[str], *, timeout: float = SECONDS, stdin: str | bytes = "", sudo: bool = False
    ) -> Result:
        """Return the result of ``command`` like `execute`, whatever its code."""
        line = _line(command)
        remote = _bounded(line, timeout, self._needs_sudo(sudo))
        begin = time.monotonic()
        try:
            result = program.run(
                self.argv(remote), stdin=stdin, timeout=timeout + GRACE, env=self.environment(), check=False
            )
        except program.ProgramFailed:
            raise CommandTimeout(self._host.name, line, timeout) from None
        if result.code in _TIMED_OUT and time.monotonic() - begin >= timeout:
            raise CommandTimeout(self._host.name, line, timeout)
        if result.code == _SSH_FAILED:
            raise Unreachable(self._host.name, line, result.code, result.stdout, result.stderr)
        return result

    def run_script(
        self,
        script: str | os.PathLike[str],
        *arguments: str,
        timeout: float = SECONDS,
        interpreter: str = "bash",
        sudo: bool = False,
    ) -> str:
        """Return stdout of a script, sent on stdin: a local file (a PathLike) or the script's text."""
        text = script if isinstance(script, str) else Path(script).read_text()
        return self.execute([interpreter, "-s", "--", *arguments], stdin=text, timeout=timeout, sudo=sudo)

    def run_parallel(self, commands: Iterable[str | Sequence[str]], *, timeout: float = SECONDS) -> list[str]:
        """Run commands at the same time and return stdout of each. Raises the only error, or SeveralFailed."""
        return _at_once([partial(self.execute, command, timeout=timeout) for command in commands])

    def background(self, command: str | Sequence[str], *, deadline: float, sudo: bool = False) -> Background:
        """Start ``command`` and return; the host stops it after ``deadline`` seconds at the latest."""
        job = Background(self, self._host.name, _line(command), deadline, sudo=self._needs_sudo(sudo))
        self._background.append(job)
        return job

    # --- files ---

    def upload(self, source: str | os.PathLike[str], target: str, *, timeout: float = SECONDS) -> None:
        """Copy a local file or folder to the path ``target`` of the host."""
        self._copy([os.fspath(source), self.connection.place(target)], timeout)

    def download(self, source: str, target: str | os.PathLike[str], *, timeout: float = SECONDS) -> Path:
        """Copy a file or folder of the host to the local path ``target``; return that path."""
        self._copy([self.connection.place(source), os.fspath(target)], timeout)
        return Path(target)

    def put(self, content: str | bytes, target: str, *, mode: int = 0o600, timeout: float = SECONDS) -> None:
        """Write ``content`` to the path ``target`` of the host, atomically."""
        part, path = shlex.quote(f"{target}.part"), shlex.quote(target)
        script = f"umask 077 && cat > {part} && chmod {mode:o} {part} && mv -f {part} {path}"
        self.execute(script, stdin=content, timeout=timeout)

    def rsync(
        self,
        source: str | os.PathLike[str],
        target: str,
        *,
        options: Sequence[str] = ("--archive",),
        timeout: float = SECONDS,
    ) -> None:
        """Copy a local file or folder to the host with rsync and its ``options``, or with tar if the host has no rsync.

        In both cases, ``/`` at the end of ``source`` means its content.
        """
        if self.run("command -v rsync > /dev/null", timeout=30).code:
            self._tar(os.fspath(source), target, timeout)
            return
        shell = shlex.join(["ssh", *self.connection.words()])
        argv = ["rsync", *options, "--rsh", shell, "--", os.fspath(source), self.connection.place(target)]
        self._local(argv, timeout)

    def _tar(self, source: str, target: str, timeout: float) -> None:
        path = Path(source)
        folder, name = (path, ".") if path.is_dir() and source.endswith("/") else (path.parent, path.name)
        argv = ["tar", "--create", "--directory", str(folder), "--", name]
        packed = subprocess.run(argv, capture_output=True, check=True, timeout=timeout).stdout
        into = shlex.quote(target)
        if path.is_dir() or target.endswith("/"):
            unpack = f"mkdir -p {into} && tar --extract --directory {into}"
        else:
            unpack = f"tar --extract --to-stdout > {into}.part && mv -f {into}.part {into}"
        self.execute(unpack, stdin=packed, timeout=timeout)

    # --- conventions ---

    def ping(self, timeout: float = 60) -> None:
        """Wait until the host answers. Raises Unreachable or CommandTimeout."""
        trouble: list[Exception] = []

        def answers() -> bool:
            try:
                self.execute("true", timeout=15)
            except (Unreachable, CommandTimeout) as error:
                trouble[:] = [error]
                return False
            return True

        wait.until(answers, time.monotonic() + timeout, lambda: trouble[0], pause=1)

    def verify_functionality(self) -> None:
        """Check that a command returns its input."""
        if self.execute("cat", stdin="devenv") != "devenv":
            raise TestingError(f"{self._host.name}: a command does not return its input")

    def reset_state(self) -> None:
        """Stop all background commands."""
        jobs, self._background = self._background, []
        for job in jobs:
            job.stop()

    def close(self) -> None:
        self.reset_state()

    # --- calls of ssh ---

    def argv(self, command: str) -> list[str]:
        """Return the arguments of ssh with a line for the host's shell."""
        return [*self.connection.ssh(), command]

    def environment(self) -> dict[str, str]:
        """Return further variables for ssh; a password comes from a program that reads a private file."""
        if not self._password_file:
            return {}
        askpass = str(Path(self._password_file).with_name(ASKPASS))
        return {
            "SSH_ASKPASS": askpass, "SSH_ASKPASS_REQUIRE": "force", "DEVENV_ASKPASS_FILE": self._password_file,
        }  # fmt: skip

    def _needs_sudo(self, sudo: bool) -> bool:
        return sudo and self.connection.user != "root"

    def _copy(self, words: Sequence[str], timeout: float) -> None:
        self._local(["scp", "-q", "-r", *self.connection.words(), "--", *words], timeout)

    def _local(self, argv: Sequence[str], timeout: float) -> None:
        try:
            done = program.run(argv, timeout=timeout, env=self.environment(), check=False)
        except program.ProgramFailed:
            raise CommandTimeout(self._host.name, argv[0], timeout) from None
        if done.code:
            kind = Unreachable if done.code == _SSH_FAILED else CommandFailed
            raise kind(self._host.name, argv[0], done.code, done.stdout, done.stderr)


class Background:
    """A command that runs on a host. It is stopped there at its deadline, whether or not anything waits for it."""

    def __init__(self, ssh: SshDirect, host: str, command: str, deadline: float, *, sudo: bool = False) -> None:
        self.host, self.command, self.deadline = host, command, deadline
        self._ssh = ssh
        self._sudo = sudo
        self._end = time.monotonic() + deadline
        # The shell prints its pid, which ``timeout`` keeps because of exec.
        remote = f"echo $$; exec {_bounded(command, deadline, sudo)}"
        self._child = subprocess.Popen(
            ssh.argv(remote), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            env={**os.environ, **ssh.environment()},
        )  # fmt: skip
        self._pid = ""
        self._has_pid = threading.Event()
        self._collected: tuple[bytes, bytes] = (b"", b"")
        self._reader = threading.Thread(target=self._read, name=f"devenv-ssh-{host}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        self._pid = self._child.stdout.readline().decode(errors="replace").strip()
        self._has_pid.set()
        self._collected = self._child.communicate()

    def is_running(self) -> bool:
        return self._child.poll() is None

    def wait(self, timeout: float | None = None) -> str:
        """Return stdout once the command has ended.

        Raises CommandFailed for a code other than 0, and CommandTimeout if the command has not ended after ``timeout``
        seconds (it continues to run) or at its deadline (it is stopped).
        """
        remaining = self._end + GRACE - time.monotonic()
        self._reader.join(max(0.0, remaining if timeout is None else min(timeout, remaining)))
        if self._reader.is_alive():
            if time.monotonic() >= self._end:
                self.stop()
            raise CommandTimeout(self.host, self.command, self.deadline if timeout is None else timeout)
        out, err = (part.decode(errors="replace") for part in self._collected)
        code = self._child.returncode
        if code in _TIMED_OUT and time.monotonic() >= self._end:
            raise CommandTimeout(self.host, self.command, self.deadline)
        if code:
            raise (Unreachable if code == _SSH_FAILED else CommandFailed)(self.host, self.command, code, out, err)
        return out

    def stop(self) -> None:
        """Stop the command on the host if it still runs, and wait for its end."""
        self._has_pid.wait(10)
        if self.is_running() and self._pid.isdigit():
            with contextlib.suppress(CommandFailed, CommandTimeout):
                self._ssh.run(f"kill -TERM {self._pid}", timeout=15, sudo=self._sudo)
            self._reader.join(10)
        if self.is_running():
            self._child.kill()
            self._reader.join(10)


def on_all(hosts: Iterable[Host] | Mapping[str, Host], command: str, *, timeout: float = SECONDS) -> dict[str, str]:
    """Run ``command`` on all hosts at the same time and return stdout by host name. Raises the only error, or
    SeveralFailed.
    """
    targets = list(hosts.values()) if isinstance(hosts, Mapping) else list(hosts)
    outputs = _at_once([partial(host.SshDirect.execute, command, timeout=timeout) for host in targets])
    return dict(zip((host.name for host in targets), outputs, strict=True))


def _at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    if not calls:
        return []
    with ThreadPoolExecutor(min(16, len(calls))) as pool:
        futures = [pool.submit(call) for call in calls]
    errors = [error for future in futures if isinstance(error := future.exception(), Exception)]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralFailed(errors)
    return [future.result() for future in futures]


def _line(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)


def _bounded(line: str, seconds: float, sudo: bool) -> str:
    """Return a line for the host's shell that stops the command and its children when its time is over."""
    argv = ["timeout", "--kill-after=5", f"{seconds:g}", "sh", "-c", line]
    return shlex.join(["sudo", "-n", "--", *argv] if sudo else argv)
