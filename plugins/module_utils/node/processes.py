"""Inspect the processes of a node, and stop those that a killed run left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files, wait

MARKER = "DEVENV_RUN"


def pids(proc: str = "/proc") -> list[int]:
    """Return the ids of all processes."""
    return sorted(int(name) for name in os.listdir(proc) if name.isdigit())


def stat(pid: int, proc: str = "/proc") -> list[str]:
    """Return the fields of /proc/PID/stat after the command name (proc(5)): state, parent, group, session, ...; [] of
    a process that no longer exists.
    """
    return files.read_text(f"{proc}/{pid}/stat").rpartition(") ")[2].split()


def gone(pid: int, proc: str = "/proc") -> bool:
    """Return whether a process has ended; zombies have."""
    fields = stat(pid, proc)
    return not fields or fields[0] in ("Z", "X")


def entries(pid: int, name: str, proc: str = "/proc") -> list[bytes]:
    """Return the entries of /proc/PID/environ or cmdline, [] if they cannot be read."""
    try:
        with open(f"{proc}/{pid}/{name}", "rb") as stream:
            return stream.read().split(b"\0")
    except OSError:
        return []


def executable(pid: int, proc: str = "/proc") -> str:
    """Return the path of the file that a process runs, "" if it cannot be read (proc(5), exe)."""
    try:
        return os.readlink(f"{proc}/{pid}/exe")
    except OSError:
        return ""


def running(names: Sequence[str], proc: str = "/proc") -> dict[str, list[int]]:
    """Return the process ids of the programs ``names`` on this node, by program."""
    result: dict[str, list[int]] = {name: [] for name in names}
    for pid in pids(proc):
        program = os.path.basename((entries(pid, "cmdline", proc) or [b""])[0]).decode(errors="replace")
        if program in result:
            result[program].append(pid)
    return result


def ancestors(pid: int, proc: str = "/proc") -> set[int]:
    """Return ``pid`` and its ancestors up to 1."""
    result = set()
    while pid > 0 and pid not in result:
        result.add(pid)
        fields = stat(pid, proc)
        pid = int(fields[1]) if len(fields) > 1 else 0
    return result


def descendants(root: int, proc: str = "/proc") -> list[int]:
    """Return the running descendants of ``root``, the closest first."""
    children: dict[int, list[int]] = {}
    for pid in pids(proc):
        fields = stat(pid, proc)
        if len(fields) > 1 and fields[0] not in ("Z", "X"):
            children.setdefault(int(fields[1]), []).append(pid)
    result, queue = [], [root]
    while queue:
        below = children.get(queue.pop(0), [])
        result += below
        queue += below
    return result


def send(targets: Iterable[int], number: int) -> None:
    """Signal processes; those that no longer exist are ignored."""
    for pid in targets:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def run_of(pid: int, proc: str = "/proc") -> str:
    """Return the id of the run that started a process, "" if it has no marker."""
    prefix = MARKER.encode() + b"="
    markers = [entry for entry in entries(pid, "environ", proc) if entry.startswith(prefix)]
    return markers[0].partition(b"=")[2].decode(errors="replace") if markers else ""


def of_a_service(cgroups: str) -> bool:
    """Return whether the text of /proc/PID/cgroup is that of a service or a pod, and not of a login."""
    for line in cgroups.splitlines():
        number, _separator, remaining = line.partition(":")
        controllers, _separator, path = remaining.partition(":")
        if "kubepods" in path:
            return True
        if number != "0" and controllers != "name=systemd":
            continue
        units = [part for part in path.split("/") if part.endswith((".service", ".scope"))]
        if units and units[-1].endswith(".service") and not re.match(r"sshd?(@.*)?\.service$", units[-1]):
            return True
    return False


def leftovers(run_id: str, proc: str = "/proc") -> list[dict[str, Any]]:
    """Return the processes with the marker of a run other than ``run_id``: ``[{pid, run, command}]``.

    Never this process or its ancestors, a service, or a pod.
    """
    excluded = ancestors(os.getpid(), proc)
    result = []
    for pid in pids(proc):
        run = "" if pid in excluded else run_of(pid, proc)
        if not run or run == run_id or of_a_service(files.read_text(f"{proc}/{pid}/cgroup")):
            continue
        result.append({"pid": pid, "run": run, "command": files.read_text(f"{proc}/{pid}/comm").strip()})
    return result


def end(processes: list[dict[str, Any]], timeout: float = 5) -> list[dict[str, Any]]:
    """Kill processes (as `leftovers` returns them) and return those that have not ended within ``timeout`` s."""
    send([process["pid"] for process in processes], signal.SIGKILL)
    wait.poll(lambda: all(gone(process["pid"]) for process in processes), time.monotonic() + timeout, 0.02)
    return [process for process in processes if not gone(process["pid"])]
