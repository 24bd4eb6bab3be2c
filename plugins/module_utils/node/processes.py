"""End what a killed run left on a node."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import observe

MARKER = "DEVENV_RUN"


def _stat(proc: str, pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the command's name (proc(5)): state, parent, ..."""
    return observe.read_text(f"{proc}/{pid}/stat").rpartition(") ")[2].split()


def ancestors(pid: int, proc: str = "/proc") -> set[int]:
    """``pid`` and its parents up to 1."""
    found = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        fields = _stat(proc, pid)
        pid = int(fields[1]) if len(fields) > 1 else 0
    return found


def run_of(pid: int, proc: str = "/proc") -> str:
    """The run that a process belongs to, "" when it carries no mark."""
    try:
        with open(f"{proc}/{pid}/environ", "rb") as stream:
            environ = stream.read()
    except OSError:
        return ""
    for entry in environ.split(b"\0"):
        if entry.startswith(MARKER.encode() + b"="):
            return entry.partition(b"=")[2].decode(errors="replace")
    return ""


def of_a_service(cgroups: str) -> bool:
    """Whether the text of /proc/PID/cgroup is that of a service or a pod, rather than of a login."""
    for line in cgroups.splitlines():
        number, _ignored, rest = line.partition(":")
        controllers, _ignored, path = rest.partition(":")
        if "kubepods" in path:
            return True
        if number != "0" and controllers != "name=systemd":
            continue
        unit = [part for part in path.split("/") if part.endswith((".service", ".scope"))]
        if unit and unit[-1].endswith(".service") and not re.match(r"sshd?(@.*)?\.service$", unit[-1]):
            return True
    return False


def leftovers(run_id: str, proc: str = "/proc", self_pid: int = 0) -> list[dict[str, Any]]:
    """Processes that carry the mark of a run other than ``run_id``: ``[{pid, run, command}]``.

    Never this process or one that it descends from, nor a service, nor a pod.
    """
    keep = ancestors(self_pid or os.getpid(), proc)
    found = []
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):
        run = "" if pid in keep else run_of(pid, proc)
        if not run or run == run_id or of_a_service(observe.read_text(f"{proc}/{pid}/cgroup")):
            continue
        command = observe.read_text(f"{proc}/{pid}/comm").strip()
        found.append({"pid": pid, "run": run, "command": command})
    return found


def gone(pid: int, proc: str = "/proc") -> bool:
    """Whether a process has ended (one that only waits to be collected has)."""
    fields = _stat(proc, pid)
    return not fields or fields[0] in ("Z", "X")


def end(
    found: list[dict[str, Any]], kill: Callable[[int, int], None] = os.kill, timeout: float = 5
) -> list[dict[str, Any]]:
    """Kill them and wait until they are gone. Returns those that would not go in ``timeout`` s."""
    for process in found:
        try:
            kill(process["pid"], signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + timeout
    left = [process for process in found if not gone(process["pid"])]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [process for process in left if not gone(process["pid"])]
    return left
