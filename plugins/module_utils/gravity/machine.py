"""A node with Gravity: its program, its local state, and the files that devenv keeps about it."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable
from typing import Any, TypeVar

from ansible_collections.devenv.lab.plugins.module_utils.node import files, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, StepFailed

T = TypeVar("T")

# Files of devenv: unpacked tarballs, the record of a finished node, the kubeconfig.
HOME = "/var/lib/devenv/gravity"
MARKER = "/var/lib/devenv/gravity.json"
KUBECONFIG = HOME + "/kubeconfig"
# Files of Gravity: its state on a node, and the units of its container.
LOCAL_STATE = "/var/lib/gravity/local"
UNITS = "/etc/systemd/system/gravity__*__planet*__*.service"


class GravityMachine(Machine):
    """A node with Gravity. ``pause``: seconds between two queries."""

    def __init__(self, root: str = "/", *, clock: wait.Clock = wait.REAL, pause: float = 2) -> None:
        super().__init__(root, clock=clock)
        self.pause = pause

    @property
    def program(self) -> str:
        """Return the path of the installed gravity, else of the unpacked one."""
        for path in ("/usr/bin/gravity", "/usr/local/bin/gravity", HOME + "/gravity"):
            if os.access(self.path(path), os.X_OK):
                return self.path(path)
        return "gravity"

    def until(self, check: Callable[[], T | None], deadline: float, reason: str, text: Callable[[], str]) -> T:
        """Return the first true result of ``check``. Raises `StepFailed` when ``deadline`` comes first."""
        return wait.until(check, deadline, lambda: StepFailed(reason, text()), self.pause, self.clock)

    def log(self, name: str) -> str:
        return super().log("gravity-" + name)

    def has_state(self) -> bool:
        return os.path.isdir(self.path(LOCAL_STATE))

    def has_services(self) -> bool:
        return bool(glob.glob(self.path(UNITS)))

    def marker(self) -> dict[str, Any]:
        """Return the record of a finished node, {} of any other."""
        return files.read_json(self.path(MARKER))

    def mark(self, record: dict[str, Any]) -> None:
        files.write_json(self.path(MARKER), record)

    def unmark(self) -> None:
        for path in (MARKER, KUBECONFIG):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(path))
