"""Keep the state of a script between runs: its record, its logs, its lock, and what finds a killed run.

A run that succeeded leaves ``last.json``: what it ran with (secrets only as keyed digests) and what it exported.
``running.json`` is there while a script runs: what a killed run left is found by it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.script import control
from ansible_collections.devenv.lab.plugins.module_utils.script.control import Control

PREFIX = "devenv-script-"


def default_folder() -> str:
    """Return where runs keep their state: root's in /var/lib, a user's where XDG says."""
    if os.geteuid() == 0:
        return "/var/lib/devenv/scripts"
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "devenv", "scripts")


def runtime() -> str:
    """Return a folder in memory, when there is one that this user may write."""
    for path in ("/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
        if path and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            return path
    return tempfile.gettempdir()


class State:
    """The private folder of one script, which stays. ``log``: where its log goes ("": a new one in the folder)."""

    def __init__(self, folder: str, log: str = "", keep_logs: int = 10) -> None:
        self.folder, self._log, self._keep_logs = folder, log, keep_logs

    def last(self) -> dict[str, Any]:
        """Return the record of the last run that succeeded."""
        return files.read_json(os.path.join(self.folder, "last.json"))

    def succeeded(self, record: dict[str, Any]) -> None:
        """Record a run that succeeded."""
        self._write("last.json", record)

    def _write(self, name: str, data: dict[str, Any]) -> None:
        # In order: the texts of a run are shown as they were described.
        files.write(os.path.join(self.folder, name), json.dumps(data, indent=1))

    @contextlib.contextmanager
    def locked(self, timeout: float, listener: Control) -> Iterator[None]:
        """Hold the lock of the folder, which is made. Raises TimeoutError."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        os.chmod(self.folder, 0o700)
        number = os.open(os.path.join(self.folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + (timeout if timeout > 0 else float("inf"))
        try:
            while True:
                try:
                    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise TimeoutError from None
                    listener.wait(0.2)
            yield
        finally:
            os.close(number)

    @contextlib.contextmanager
    def running(self, mark: str, folder: str) -> Iterator[None]:
        """Let a run be found that is killed meanwhile, by its ``mark`` and private ``folder``."""
        self._write("running.json", {"mark": mark, "boot": _boot(), "folder": folder, "supervisor": os.getpid()})
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.folder, "running.json"))

    def end_killed(self, grace: float) -> None:
        """End what a run left that was killed with its supervisor."""
        path = os.path.join(self.folder, "running.json")
        left = files.read_json(path)
        if not left:
            return
        mark = str(left.get("mark", ""))
        if mark and left.get("boot") == _boot():
            control.end(lambda: control.marked(mark), grace)
        folder = str(left.get("folder", ""))
        if os.path.basename(folder).startswith(PREFIX) and _is_own_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)
        os.unlink(path)

    def _logs(self) -> list[str]:
        """Return the logs of earlier runs, oldest first."""
        return sorted(glob.glob(os.path.join(glob.escape(self.folder), "*.log")))

    def open_log(self) -> tuple[str, int]:
        """Open a log for this run, and remove the oldest ones; return its path and descriptor."""
        if self._log:
            os.makedirs(os.path.dirname(self._log), mode=0o700, exist_ok=True)
            path, flags = self._log, os.O_TRUNC | os.O_NOFOLLOW
        else:
            keep = self._keep_logs - 1
            for old in self._logs()[: -keep or None] if keep > 0 else self._logs():
                os.unlink(old)
            now = time.time()
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}Z"
            path, flags = os.path.join(self.folder, f"{stamp}.log"), os.O_EXCL
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
        os.fchmod(number, 0o600)
        return path, number


def _is_own_folder(path: str) -> bool:
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return False


def _boot() -> str:
    return files.read_text("/proc/sys/kernel/random/boot_id").strip()
