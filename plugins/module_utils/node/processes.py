"""Look at the processes of a node, and end what a killed run left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files, wait

MARKER = "DEVENV_RUN"


def pids(proc: str = "/proc") -> list[int]:
    """Return the ids of all processes."""
    return sorted(int(name) for name in os.listdir(proc) if name.isdigit())


def stat(pid: int, proc: str = "/proc") -> list[str]:
    """Return the fields of /proc/PID/stat after the command's name (proc(5)): state, parent, group, session, ...;
    [] of a process that is gone.
    """
    return files.read_text(f"{proc}/{pid}/stat").rpartition(") ")[2].split()


def gone(pid: int, proc: str = "/proc") -> bool:
    """Return whether a process has ended (one that only waits to be collected has)."""
    fields = stat(pid, proc)
    return not fields or fields[0] in ("Z", "X")


def entries(pid: int, name: str, proc: str = "/proc") -> list[bytes]:
    """Return the words of /proc/PID/environ or cmdline, [] when they cannot be read."""
    try:
        with open(f"{proc}/{pid}/{name}", "rb") as stream:
            return stream.read().split(b"\0")
    except OSError:
        return []


def executable(pid: int, proc: str = "/proc") -> str:
    """Return the path of the file that a process runs, "" when it cannot be read (proc(5), exe)."""
    try:
        return os.readlink(f"{proc}/{pid}/exe")
    except OSError:
        return ""


def running(names: Sequence[str], proc: str = "/proc") -> dict[str, list[int]]:
    """Return process ids by program, of those of ``names`` that run on this node."""
    found: dict[str, list[int]] = {name: [] for name in names}
    for pid in pids(proc):
        program = os.path.basename((entries(pid, "cmdline", proc) or [b""])[0]).decode(errors="replace")
        if program in found:
            found[program].append(pid)
    return found


def ancestors(pid: int, proc: str = "/proc") -> set[int]:
    """Return ``pid`` and its parents up to 1."""
    found = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        fields = stat(pid, proc)
        pid = int(fields[1]) if len(fields) > 1 else 0
    return found


def descendants(root: int, proc: str = "/proc") -> list[int]:
    """Return the living processes below ``root``, the nearest first."""
    children: dict[int, list[int]] = {}
    for pid in pids(proc):
        fields = stat(pid, proc)
        if len(fields) > 1 and fields[0] not in ("Z", "X"):
            children.setdefault(int(fields[1]), []).append(pid)
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def send(targets: Iterable[int], number: int) -> None:
    """Signal processes; one that is gone is no error."""
    for pid in targets:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def run_of(pid: int, proc: str = "/proc") -> str:
    """Return the run that a process belongs to, "" when it carries no mark."""
    mark = MARKER.encode() + b"="
    found = [entry for entry in entries(pid, "environ", proc) if entry.startswith(mark)]
    return found[0].partition(b"=")[2].decode(errors="replace") if found else ""


def of_a_service(cgroups: str) -> bool:
    """Return whether the text of /proc/PID/cgroup is that of a service or a pod, rather than of a login."""
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
    """Return the processes that carry the mark of a run other than ``run_id``: ``[{pid, run, command}]``.

    Never this process or one that it descends from, nor a service, nor a pod.
    """
    keep = ancestors(self_pid or os.getpid(), proc)
    found = []
    for pid in pids(proc):
        run = "" if pid in keep else run_of(pid, proc)
        if not run or run == run_id or of_a_service(files.read_text(f"{proc}/{pid}/cgroup")):
            continue
        found.append({"pid": pid, "run": run, "command": files.read_text(f"{proc}/{pid}/comm").strip()})
    return found


def end(
    found: list[dict[str, Any]], kill: Callable[[int, int], None] = os.kill, timeout: float = 5
) -> list[dict[str, Any]]:
    """Kill them and wait until they are gone. Return those that would not go in ``timeout`` s."""
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            kill(process["pid"], signal.SIGKILL)
    wait.poll(lambda: all(gone(process["pid"]) for process in found), time.monotonic() + timeout, 0.02)
    return [process for process in found if not gone(process["pid"])]
