"""Processes of a run: read /proc (proc(5)), find what a killed run left, stop it by pid."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import MARKER

PROC = Path("/proc")

# Monitors outlive the run on purpose: without its monitor, a container keeps running and its end is never recorded.
SPARED = frozenset({"conmon"})


@dataclass(frozen=True)
class Process:
    """One process. ``start`` is field 22 of stat, clock ticks after boot; ``pid`` and ``start`` identify a process
    until the next boot.
    """

    pid: int
    start: int
    parent: int
    session: int
    state: str
    name: str

    @property
    def is_alive(self) -> bool:
        return self.state not in ("Z", "X")


@dataclass(frozen=True)
class Origin:
    """Traits of an ansible process by which its forks are recognised after its death (they share no marker with it).

    ``image`` is a digest of command line and environment, ``pipes`` are its open pipes except the standard streams.
    """

    pid: int
    start: int
    image: str
    pipes: tuple[str, ...]


def _content(pid: int | str, name: str, proc: Path = PROC) -> bytes:
    """Return a file of /proc/PID; empty if the process is gone or belongs to another user."""
    try:
        return (proc / str(pid) / name).read_bytes()
    except OSError:
        return b""


def read_process(pid: int, proc: Path = PROC) -> Process | None:
    """Return the process ``pid``, or None if it does not exist."""
    # The name is in parentheses and can contain blanks and parentheses itself.
    head, _ignored, tail = _content(pid, "stat", proc).decode(errors="replace").rpartition(")")
    fields = tail.split()
    if not fields:
        return None
    return Process(
        pid=pid,
        start=int(fields[19]),
        parent=int(fields[1]),
        session=int(fields[3]),
        state=fields[0],
        name=head.partition("(")[2],
    )


def all_processes() -> dict[int, Process]:
    """Return the processes of this pid namespace and those below it (nodes are containers of this host), by pid."""
    candidates = (read_process(int(entry)) for entry in os.listdir(PROC) if entry.isdigit())
    return {process.pid: process for process in candidates if process is not None}


def alive(pid: int, start: int) -> bool:
    """Return whether exactly this process still runs (a zombie does not)."""
    process = read_process(pid)
    return process is not None and process.start == start and process.is_alive


def boot_id() -> str:
    """Return the kernel's random name of this boot."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def command_line(pid: int) -> str:
    """Return the command line of ``pid`` with blanks between the words; empty if there is no such process."""
    return _content(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def carrying(marker: str, is_program: Callable[[str], bool], proc: Path = PROC) -> Iterator[tuple[int, list[str]]]:
    """Yield pid and value (split into words) of the variable ``marker`` of each process that has it.

    Only processes whose name (comm) ``is_program`` accepts are read.
    """
    for place in proc.glob("[0-9]*"):
        if not is_program(_content(place.name, "comm", proc).decode(errors="replace").strip()):
            continue
        for variable in _content(place.name, "environ", proc).split(b"\0"):
            key, _ignored, value = variable.decode(errors="replace").partition("=")
            if key == marker:
                yield int(place.name), value.split()


def image(pid: int) -> str:
    """Return a digest of command line and initial environment: equal for a process and its forks, empty if the
    process does not exist.
    """
    command = _content(pid, "cmdline")
    return hashlib.sha256(command + b"\n" + _content(pid, "environ")).hexdigest() if command else ""


def pipes(pid: int) -> tuple[str, ...]:
    """Return the open pipes of a process except its standard streams, as /proc names them, sorted."""
    folder = PROC / str(pid) / "fd"
    targets: set[str] = set()
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            with contextlib.suppress(OSError):
                if int(entry) > 2:
                    targets.add(os.readlink(folder / entry))
    return tuple(sorted(target for target in targets if target.startswith("pipe:")))


def origin(pid: int) -> Origin | None:
    """Return the Origin of a living process."""
    process = read_process(pid)
    return Origin(pid, process.start, image(pid), pipes(pid)) if process else None


def has_marker(environ: bytes, run_id: str) -> bool:
    """Return whether an environment (NUL-separated) has exactly this run's marker."""
    return f"{MARKER}={run_id}".encode() in environ.split(b"\0")


def ancestors(pid: int, table: Mapping[int, Process]) -> set[int]:
    """Return ``pid`` and its parents, up to the first process."""
    line: set[int] = set()
    while pid in table and pid not in line:
        line.add(pid)
        pid = table[pid].parent
    return line


def descendants(roots: Iterable[int], table: Mapping[int, Process], spared: Collection[int] = ()) -> set[int]:
    """Return ``roots`` and everything below them, except the processes in ``spared`` and everything below those."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    pids: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in pids and pid not in spared and pid in table:
            pids.add(pid)
            waiting += children.get(pid, ())
    return pids


def _is_fork(process: Process, dead: Origin) -> bool:
    """Return whether ``process`` is a worker of the dead ansible process: a session of its own (core 2.19 detaches its
    workers), the same image, younger, one of its pipes open.
    """
    return (
        process.pid != dead.pid
        and process.session == process.pid
        and process.start >= dead.start
        and image(process.pid) == dead.image
        and bool(set(pipes(process.pid)) & set(dead.pipes))
    )


def _spared(table: Mapping[int, Process]) -> set[int]:
    """Return monitors of containers, and the clean-up that a monitor starts when its container exits."""
    monitors = {process.pid for process in table.values() if process.name in SPARED}
    cleaners = {
        process.pid
        for process in table.values()
        if process.parent in monitors and " container cleanup " in f"{command_line(process.pid)} "
    }
    return monitors | cleaners


def of_run(
    run_id: str, main: Origin | None = None, *, protect: Iterable[int] = (), known: Iterable[Process] = ()
) -> list[Process]:
    """Return the living processes of the run ``run_id``, with everything below them.

    They are those with its marker, its ansible process ``main`` or, if that is dead, its orphaned workers, and the
    ``known`` ones. Never this process, its parents, or ``protect`` and everything below those.
    """
    table = all_processes()
    spared = _spared(table)
    kept = ancestors(os.getpid(), table) | descendants(protect, table)
    roots = {pid for pid in table if run_id and has_marker(_content(pid, "environ"), run_id)}
    roots |= {process.pid for process in known if alive(process.pid, process.start)}
    if main is not None:
        if alive(main.pid, main.start):
            roots.add(main.pid)
        elif main.image:
            roots |= {process.pid for process in table.values() if _is_fork(process, main)}
    pids = descendants(roots - spared, table, spared) - kept
    return [table[pid] for pid in sorted(pids) if table[pid].is_alive]


def end_run(
    run_id: str,
    main: Origin | None = None,
    *,
    protect: Iterable[int] = (),
    grace: float = 3.0,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Process]:
    """Stop every process of the run (see ``of_run``). Return those that are still alive in the end, normally none."""
    protected = list(protect)
    return end_all(lambda known: of_run(run_id, main, protect=protected, known=known), grace=grace, progress=progress)


def end_ssh_masters(sockets: Path) -> list[Process]:
    """Stop the ssh masters with a control socket in the directory ``sockets``. OpenSSH names them ``ssh: <socket>
    [mux]``.
    """

    def masters(_known: list[Process]) -> list[Process]:
        named = [process for process in all_processes().values() if process.name == "ssh"]
        return [process for process in named if command_line(process.pid).startswith(f"ssh: {sockets}/")]

    return end_all(masters, grace=1)


def end_all(
    find: Callable[[list[Process]], list[Process]],
    *,
    grace: float = 3.0,
    patience: float = 10.0,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Process]:
    """Send SIGTERM to everything that ``find`` returns, after ``grace`` seconds SIGKILL, until it returns nothing.

    ``find`` gets its last result. Return what it still finds after ``patience`` more seconds.
    """
    killing = time.monotonic() + grace
    remaining: list[Process] = []
    signalled: set[tuple[int, int]] = set()

    def are_gone() -> bool:
        nonlocal remaining
        # Search again: a stopping process may have started another. Pass on what was known: a child whose parent is
        # gone cannot be found in any other way.
        remaining = find(remaining)
        if remaining and not signalled:
            names = ", ".join(sorted({process.name for process in remaining}))
            progress(f"stopping {len(remaining)} processes: {names}")
        kill = time.monotonic() >= killing
        for process in remaining:
            if kill or (process.pid, process.start) not in signalled:
                signalled.add((process.pid, process.start))
                _signal(process, signal.SIGKILL if kill else signal.SIGTERM)
        return not remaining

    wait.until(are_gone, killing + patience, pause=0.05)
    return remaining


def _signal(process: Process, number: signal.Signals) -> None:
    """Signal exactly this process: its pid can be reused between check and signal, a pidfd cannot."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        if alive(process.pid, process.start):
            signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, PermissionError):
        return
    finally:
        os.close(handle)
