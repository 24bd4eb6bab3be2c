"""The host plugin SshDirect: OpenSSH's own programs, with the environment's keys and host keys.

Connections are shared (ControlMaster), so a command costs one round trip. What a command may take is kept on the host
too, by ``timeout`` of coreutils: nothing runs on after the test has given up.
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
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program, wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import Result

from devenv.testing.errors import CommandFailed, CommandTimeout, SeveralFailed, TestingError, Unreachable

if TYPE_CHECKING:
    from devenv.testing.objects import Host

T = TypeVar("T")
SECONDS = 600.0
# Between the end of a command's time on the host and that of ssh here.
GRACE = 15.0
_TIMED_OUT = (124, 137)
_SSH_FAILED = 255
_MULTIPLEXED = (
    "-o", "ControlMaster=auto", "-o", "ControlPersist=120", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10",
    "-o", "ServerAliveCountMax=3", "-o", "LogLevel=ERROR",
)  # fmt: skip
# A password's file has this program beside it, which ssh asks (OpenSSH 8.4).
ASKPASS = "askpass"


class SshDirect:
    """Commands and files on one host, as the user of the host (root, where devenv made it)."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._found = host.found
        batch = () if host.found.password_file else ("-o", "BatchMode=yes")
        reached = host.found.connection
        self.connection = replace(reached, options=(*reached.options, *batch, *_MULTIPLEXED))
        self._background: list[Background] = []

    # --- commands ---

    def execute(
        self, command: str | Sequence[str], *, timeout: float = SECONDS, stdin: str | bytes = "", sudo: bool = False
    ) -> str:
        """stdout of ``command``: a line for the host's shell, or words. Raises CommandFailed for a code other than 0,
        Unreachable when ssh fails, CommandTimeout after ``timeout`` seconds.
        """
        result = self.run(command, timeout=timeout, stdin=stdin, sudo=sudo)
        if result.code:
            raise CommandFailed(self._host.name, _line(command), result.code, result.stdout, result.stderr)
        return result.stdout

    def run(
        self, command: str | Sequence[str], *, timeout: float = SECONDS, stdin: str | bytes = "", sudo: bool = False
    ) -> Result:
        """Like `execute`, whatever the code."""
        line = _line(command)
        remote = _bounded(line, timeout, sudo and self._found.user != "root")
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
        """stdout of a script: the path of a file here (a PathLike), or the script's text. It goes to the host on
        stdin.
        """
        text = script if isinstance(script, str) else Path(script).read_text()
        return self.execute([interpreter, "-s", "--", *arguments], stdin=text, timeout=timeout, sudo=sudo)

    def run_parallel(self, commands: Iterable[str | Sequence[str]], *, timeout: float = SECONDS) -> list[str]:
        """stdout of each of several commands that run at the same time. Raises SeveralFailed after all have ended."""
        return _at_once([lambda one=one: self.execute(one, timeout=timeout) for one in commands])  # type: ignore[misc]

    def background(self, command: str | Sequence[str], *, deadline: float, sudo: bool = False) -> Background:
        """Start ``command`` and return; it is ended on the host after ``deadline`` seconds at the latest."""
        job = Background(self, self._host.name, _line(command), deadline, sudo=sudo and self._found.user != "root")
        self._background.append(job)
        return job

    # --- files ---

    def upload(self, source: str | os.PathLike[str], target: str, *, timeout: float = SECONDS) -> None:
        """Copy a file or folder to the path ``target`` of the host."""
        self._copy([os.fspath(source), self.connection.place(target)], timeout)

    def download(self, source: str, target: str | os.PathLike[str], *, timeout: float = SECONDS) -> Path:
        """Copy a file or folder of the host here; return where it is."""
        self._copy([self.connection.place(source), os.fspath(target)], timeout)
        return Path(target)

    def put(self, content: str | bytes, target: str, *, mode: int = 0o600, timeout: float = SECONDS) -> None:
        """Write ``content`` to the path ``target`` of the host; it is there whole or not at all."""
        part = f"{target}.part"
        words = shlex.quote(part), f"{mode:o}", shlex.quote(target)
        script = "umask 077 && cat > {0} && chmod {1} {0} && mv -f {0} {2}".format(*words)
        self.execute(script, stdin=content, timeout=timeout)

    def rsync(
        self,
        source: str | os.PathLike[str],
        target: str,
        *,
        options: Sequence[str] = ("--archive",),
        timeout: float = SECONDS,
    ) -> None:
        """rsync a file or folder of this machine to the host. One that has no rsync gets a copy by tar, with the same
        meaning of ``/`` at the end of ``source``; ``options`` are for rsync then only.
        """
        if self.run("command -v rsync > /dev/null", timeout=30).code:
            self._tar(os.fspath(source), target, timeout)
            return
        shell = shlex.join(["ssh", *self.connection.words()])
        argv = ["rsync", *options, "--rsh", shell, "--", os.fspath(source), self.connection.place(target)]
        self._local(argv, timeout)

    def _tar(self, source: str, target: str, timeout: float) -> None:
        path = Path(source)
        whole = path.is_dir()
        inside = whole and not source.endswith("/")
        words = ["tar", "--create", "--directory", str(path if whole and not inside else path.parent), "--"]
        packed = subprocess.run(
            [*words, "." if whole and not inside else path.name], capture_output=True, check=True, timeout=timeout
        ).stdout
        into = shlex.quote(target)
        if whole or target.endswith("/"):
            unpack = f"mkdir -p {into} && tar --extract --directory {into}"
        else:
            unpack = f"tar --extract --to-stdout > {into}.part && mv -f {into}.part {into}"
        self.execute(unpack, stdin=packed, timeout=timeout)

    # --- conventions ---

    def ping(self, timeout: float = 60) -> None:
        """Wait until the host answers. Raises Unreachable, or CommandTimeout."""
        troubles: list[Exception] = []

        def answers() -> bool:
            try:
                self.execute("true", timeout=15)
            except (Unreachable, CommandTimeout) as error:
                troubles[:] = [error]
                return False
            return True

        wait.until(answers, time.monotonic() + timeout, lambda: troubles[0], pause=1)

    def verify_functionality(self) -> None:
        """What was sent comes back."""
        if self.execute("cat", stdin="devenv") != "devenv":
            raise TestingError(f"{self._host.name}: a command does not give back what it was sent")

    def reset_state(self) -> None:
        """End what runs in the background."""
        jobs, self._background = self._background, []
        for job in jobs:
            job.stop()

    def close(self) -> None:
        self.reset_state()

    # --- how ssh is called ---

    def argv(self, command: str) -> list[str]:
        """ssh with a line for the host's shell."""
        return [*self.connection.ssh(), command]

    def environment(self) -> dict[str, str]:
        """Further variables for ssh: with a password it asks a program of ours, which reads a private file."""
        if not self._found.password_file:
            return {}
        asked = {"SSH_ASKPASS": str(Path(self._found.password_file).with_name(ASKPASS)), "SSH_ASKPASS_REQUIRE": "force"}
        return {**asked, "DEVENV_ASKPASS_FILE": self._found.password_file}

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
    """A command that runs on a host. It is ended there when its deadline is over, whether or not anyone waits."""

    def __init__(self, ssh: SshDirect, host: str, command: str, deadline: float, *, sudo: bool = False) -> None:
        self.host, self.command, self.deadline = host, command, deadline
        self._ssh = ssh
        self._sudo = sudo
        self._end = time.monotonic() + deadline
        # The shell's pid, told first, is the one that ``timeout`` gets by exec.
        remote = f"echo $$; exec {_bounded(command, deadline, sudo)}"
        self._child = subprocess.Popen(
            ssh.argv(remote), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            env={**os.environ, **ssh.environment()},
        )  # fmt: skip
        self._pid = ""
        self._told = threading.Event()
        self._collected: tuple[bytes, bytes] = (b"", b"")
        self._reader = threading.Thread(target=self._read, name=f"devenv-ssh-{host}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        self._pid = self._child.stdout.readline().decode(errors="replace").strip()
        self._told.set()
        self._collected = self._child.communicate()

    def is_running(self) -> bool:
        return self._child.poll() is None

    def wait(self, timeout: float | None = None) -> str:
        """stdout, once the command has ended. Raises CommandFailed for a code other than 0, and CommandTimeout when it
        has not ended after ``timeout`` seconds (it runs on) or at its deadline (it is ended).
        """
        left = self._end + GRACE - time.monotonic()
        self._reader.join(max(0.0, left if timeout is None else min(timeout, left)))
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
        """End the command on the host, if it still runs, and wait for it."""
        self._told.wait(10)
        if self.is_running() and self._pid.isdigit():
            with contextlib.suppress(CommandFailed, CommandTimeout):
                self._ssh.run(f"kill -TERM {self._pid}", timeout=15, sudo=self._sudo)
            self._reader.join(10)
        if self.is_running():
            self._child.kill()
            self._reader.join(10)


def on_all(hosts: Iterable[Host] | Mapping[str, Host], command: str, *, timeout: float = SECONDS) -> dict[str, str]:
    """stdout of ``command`` on each host, by name; all at the same time. Raises the one error, or SeveralFailed."""
    wanted = list(hosts.values()) if isinstance(hosts, Mapping) else list(hosts)
    found = _at_once([lambda host=host: host.SshDirect.execute(command, timeout=timeout) for host in wanted])  # type: ignore[misc]
    return dict(zip((host.name for host in wanted), found, strict=True))


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
    """A line for the host's shell that ends the command and all it started when its time is over."""
    words = ["timeout", "--kill-after=5", f"{seconds:g}", "sh", "-c", line]
    return shlex.join(["sudo", "-n", "--", *words] if sudo else words)
