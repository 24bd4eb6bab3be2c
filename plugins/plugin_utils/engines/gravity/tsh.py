"""Log in to a Gravity cluster with `tsh`, which reads the password from a terminal only."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

REASON = "gravity_tsh"
PORT = 32009
# The documented prompts of tsh.
PASSWORD = re.compile(r"Enter password for Teleport user .*:")
SECOND_FACTOR = re.compile(r"(OTP|security key).*:|Tap any security key")
_SHOWN = 300


def login(
    program: str,
    proxy: str,
    user: str,
    password: str,
    *,
    folder: Path,
    certificate: str,
    arguments: Sequence[str] = (),
    timeout: float = 60,
) -> Path:
    """Log in and return the kubeconfig that tsh writes. ``folder`` keeps its files apart from the user's own;
    ``certificate`` (PEM) is the only one that tsh accepts from the proxy. Raises DevenvError ``gravity_tsh``.
    """
    if not shutil.which(program):
        raise DevenvError(REASON, f"the program {program} is not on this machine")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority, kubeconfig = folder / "proxy.pem", folder / "kubeconfig"
    files.write(authority, certificate)
    kubeconfig.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "HOME": str(folder),
        "KUBECONFIG": str(kubeconfig),
        "SSL_CERT_FILE": str(authority),
        "TERM": "dumb",
    }
    argv = [program, "login", f"--proxy={proxy}", f"--user={user}", *arguments]
    code, output = answer_prompt(argv, password, environment, timeout)
    if code != 0 or not kubeconfig.exists():
        raise DevenvError(REASON, f"tsh login as {user} at {proxy}: {output or 'no kubeconfig was written'}")
    kubeconfig.chmod(0o600)
    return kubeconfig


def answer_prompt(
    argv: Sequence[str], password: str, environment: Mapping[str, str], timeout: float
) -> tuple[int, str]:
    """Run a program in a terminal of its own and answer its prompt for the password once. Return its exit code and the
    end of its output, without the password. Raises DevenvError ``gravity_tsh`` for other prompts, and when it takes
    longer than ``timeout`` seconds.
    """
    process, terminal = pty.fork()
    if process == 0:
        with contextlib.suppress(OSError):
            os.execvpe(argv[0], list(argv), dict(environment))
        os._exit(127)
    output, is_answered, deadline = "", False, time.monotonic() + timeout
    try:
        while True:
            if not select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise DevenvError(REASON, f"tsh did not end within {timeout:g} s: {_end(output, password)}")
            # The end of the terminal is an error on Linux.
            block = b""
            with contextlib.suppress(OSError):
                block = os.read(terminal, 4096)
            if not block:
                break
            output += block.decode(errors="replace")
            if not is_answered and PASSWORD.search(output):
                _wait_for_silence(terminal, deadline)
                os.write(terminal, f"{password}\n".encode())
                is_answered = True
            elif SECOND_FACTOR.search(output):
                raise DevenvError(REASON, "the user has a second factor, which nobody can type here")
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), _end(output, password)
    except BaseException:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        raise
    finally:
        os.close(terminal)


def _wait_for_silence(terminal: int, deadline: float) -> None:
    """Wait until the program reads without echo: what is typed before may be shown, or discarded."""
    while termios.tcgetattr(terminal)[3] & termios.ECHO and time.monotonic() < deadline:
        time.sleep(0.02)


def _end(output: str, password: str) -> str:
    lines = [line.strip() for line in output.replace(password, "***").splitlines()]
    return "; ".join(line for line in lines if line and not PASSWORD.search(line))[-_SHOWN:]
