"""Keep the state of a script between runs: its record, its logs, its lock, and the traces of a killed run.

A successful run leaves ``last.json``: its inputs (secrets only as keyed digests) and its exported facts.
``running.json`` exists while a script runs; the next run uses it to find what a killed run left.
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
    """Return the folder for the state of scripts: root's in /var/lib, a user's by XDG."""
    if os.geteuid() == 0:
        return "/var/lib/devenv/scripts"
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "devenv", "scripts")


def runtime() -> str:
    """Return a folder in memory if there is one that this user can write to."""
    for path in ("/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
        if path and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            return path
    return tempfile.gettempdir()


class State:
    """The permanent private folder of one script. ``log`` is the path of its log; empty for a new file in it."""

    def __init__(self, folder: str, log: str, keep_logs: int) -> None:
        self.folder, self._log, self._keep_logs = folder, log, keep_logs
        self._running = os.path.join(folder, "running.json")

    def last(self) -> dict[str, Any]:
        """Return the record of the last successful run."""
        return files.read_json(os.path.join(self.folder, "last.json"))

    def succeeded(self, record: dict[str, Any]) -> None:
        """Record a successful run."""
        # Unsorted: a difference shows the inputs in the order of their description.
        files.write(os.path.join(self.folder, "last.json"), json.dumps(record, indent=1))

    @contextlib.contextmanager
    def locked(self, timeout: float, listener: Control) -> Iterator[None]:
        """Hold the lock of the folder, which is created. Raises TimeoutError."""
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
        """Record the ``mark`` and the private ``folder`` of a run, in case it is killed."""
        record = {"mark": mark, "boot": _boot(), "folder": folder}
        files.write(self._running, json.dumps(record, indent=1))
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._running)

    def end_killed(self, grace: float) -> None:
        """Terminate and remove what remains of a run that was killed with its supervisor."""
        record = files.read_json(self._running)
        if not record:
            return
        mark = str(record.get("mark", ""))
        if mark and record.get("boot") == _boot():
            control.end(lambda: control.marked(mark), grace)
        folder = str(record.get("folder", ""))
        if os.path.basename(folder).startswith(PREFIX) and _is_own_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)
        os.unlink(self._running)

    def open_log(self) -> tuple[str, int]:
        """Open a log for this run, and remove the oldest ones; return its path and descriptor."""
        if self._log:
            os.makedirs(os.path.dirname(self._log), mode=0o700, exist_ok=True)
            path, flags = self._log, os.O_TRUNC | os.O_NOFOLLOW
        else:
            logs = sorted(glob.glob(os.path.join(glob.escape(self.folder), "*.log")))
            for log in logs[: max(0, len(logs) + 1 - self._keep_logs)]:
                os.unlink(log)
            now = time.time()
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}Z"
            path, flags = os.path.join(self.folder, f"{stamp}.log"), os.O_EXCL
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
        os.fchmod(number, 0o600)
        return path, number


def _is_own_folder(path: str) -> bool:
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return False


def _boot() -> str:
    return files.read_text("/proc/sys/kernel/random/boot_id").strip()
