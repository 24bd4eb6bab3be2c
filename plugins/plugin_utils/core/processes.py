"""Processes of a run: read /proc, find what a killed run left, end it by pid.

Formats of /proc are those of proc(5).
"""

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

# They outlive the run on purpose: a monitor that is killed leaves its container behind without anyone to note its end.
SPARED = frozenset({"conmon"})


@dataclass(frozen=True)
class Process:
    """One process. ``start`` is field 22 of stat, clock ticks after boot: with ``pid`` it names a process for one
    boot.
    """

    pid: int
    start: int
    parent: int
    session: int
    state: str
    name: str


@dataclass(frozen=True)
class Origin:
    """What an ansible process looked like, to know its forks by once it is dead (they share no marker with it).

    ``image`` is a digest of command line and environment, ``pipes`` the pipes it had open beyond its standard streams.
    """

    pid: int
    start: int
    image: str
    pipes: tuple[str, ...]


def read_process(pid: int, proc: Path = PROC) -> Process | None:
    """The process ``pid``, or None when there is none."""
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name stands in parentheses and may hold blanks and parentheses itself.
    head, tail = text.rsplit(")", 1)
    fields = tail.split()
    return Process(
        pid=pid,
        start=int(fields[19]),
        parent=int(fields[1]),
        session=int(fields[3]),
        state=fields[0],
        name=head.partition("(")[2],
    )


def all_processes(proc: Path = PROC) -> dict[int, Process]:
    """Every process of this pid namespace and those below it (nodes are containers of this host), by pid."""
    found = (read_process(int(entry), proc) for entry in os.listdir(proc) if entry.isdigit())
    return {process.pid: process for process in found if process is not None}


def alive(pid: int, start: int, proc: Path = PROC) -> bool:
    """Whether the very process still works (a zombie does not)."""
    process = read_process(pid, proc)
    return process is not None and process.start == start and process.state not in ("Z", "X")


def boot_id(proc: Path = PROC) -> str:
    """The kernel's random name of this boot."""
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def command_line(pid: int, proc: Path = PROC) -> str:
    """Command line of ``pid``, blanks between the words; empty when there is no such process."""
    try:
        return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _environ(pid: int, proc: Path) -> bytes:
    try:
        return (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return b""


def carrying(marker: str, is_program: Callable[[str], bool], proc: Path = PROC) -> Iterator[tuple[int, list[str]]]:
    """Processes with the variable ``marker``: id, and the words of its value. Of those whose name (comm) is another
    nothing more is read.
    """
    for place in proc.glob("[0-9]*"):
        try:
            if not is_program((place / "comm").read_text().strip()):
                continue
            variables = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for variable in variables:
            key, _ignored, value = variable.decode(errors="replace").partition("=")
            if key == marker:
                yield int(place.name), value.split()


def image(pid: int, proc: Path = PROC) -> str:
    """Digest of command line and first environment: equal for a process and its forks. Empty when there is no such
    process.
    """
    try:
        command = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    return hashlib.sha256(command + b"\n" + _environ(pid, proc)).hexdigest() if command else ""


def pipes(pid: int, proc: Path = PROC) -> tuple[str, ...]:
    """Names (``pipe:[inode]``) of the pipes that ``pid`` has open, standard streams left out (they are shared with
    strangers).
    """
    found = set()
    with contextlib.suppress(OSError):
        for entry in os.listdir(proc / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(proc / str(pid) / "fd" / entry)
                if int(entry) > 2 and target.startswith("pipe:"):
                    found.add(target)
    return tuple(sorted(found))


def origin(pid: int, proc: Path = PROC) -> Origin | None:
    """The Origin of a living process."""
    process = read_process(pid, proc)
    return Origin(pid, process.start, image(pid, proc), pipes(pid, proc)) if process else None


def has_marker(environ: bytes, run_id: str) -> bool:
    """Whether an environment (NUL-separated) carries exactly this run's marker."""
    return f"{MARKER}={run_id}".encode() in environ.split(b"\0")


def ancestors(pid: int, table: Mapping[int, Process]) -> set[int]:
    """``pid`` and its parents, up to the first process."""
    line: set[int] = set()
    while pid in table and pid not in line:
        line.add(pid)
        pid = table[pid].parent
    return line


def descendants(roots: Iterable[int], table: Mapping[int, Process], spared: Collection[int] = ()) -> set[int]:
    """``roots`` and everything below them; what is in ``spared`` is left out with all below it."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in found or pid in spared or pid not in table:
            continue
        found.add(pid)
        waiting.extend(children.get(pid, ()))
    return found


def _is_fork(process: Process, of: Origin, proc: Path) -> bool:
    """Whether ``process`` is an ansible worker of ``of``, which is dead: a session of its own (core 2.19 detaches its
    workers), same image, younger, one of its pipes open.
    """
    return (
        process.pid != of.pid
        and process.session == process.pid
        and process.start >= of.start
        and image(process.pid, proc) == of.image
        and bool(set(pipes(process.pid, proc)) & set(of.pipes))
    )


def _spared(table: Mapping[int, Process], proc: Path) -> set[int]:
    """Monitors of containers, and the clean-up that a monitor starts when its container ends."""
    monitors = {process.pid for process in table.values() if process.name in SPARED}
    cleaners = {
        process.pid
        for process in table.values()
        if process.parent in monitors and " container cleanup " in f"{command_line(process.pid, proc)} "
    }
    return monitors | cleaners


def of_run(
    run_id: str, main: Origin | None = None, *, protect: Iterable[int] = (), known: Iterable[Process] = ()
) -> list[Process]:
    """Living processes of the run ``run_id``: those that carry its marker, its ansible process ``main`` if it lives,
    else that one's orphaned workers, those ``known`` already, and what is below any of them. Never this process, its
    parents, or ``protect`` and what is below those.
    """
    table = all_processes()
    spared = _spared(table, PROC)
    kept = ancestors(os.getpid(), table) | descendants(protect, table)
    roots = {process.pid for process in table.values() if run_id and has_marker(_environ(process.pid, PROC), run_id)}
    roots |= {process.pid for process in known if alive(process.pid, process.start)}
    if main is not None:
        if alive(main.pid, main.start):
            roots.add(main.pid)
        elif main.image:
            roots |= {process.pid for process in table.values() if _is_fork(process, main, PROC)}
    found = descendants(roots - spared, table, spared) - kept
    return sorted((table[pid] for pid in found if table[pid].state not in ("Z", "X")), key=lambda process: process.pid)


def end_run(
    run_id: str,
    main: Origin | None = None,
    *,
    protect: Iterable[int] = (),
    grace: float = 3.0,
    patience: float = 10.0,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Process]:
    """End every process of the run (see ``of_run``). Return those that still live after all patience, normally none."""
    protected = list(protect)

    def find(known: list[Process]) -> list[Process]:
        return of_run(run_id, main, protect=protected, known=known)

    return end_all(find, grace=grace, patience=patience, progress=progress)


def end_ssh_masters(sockets: Path, *, grace: float = 1.0) -> list[Process]:
    """End the ssh masters whose control socket lies in the folder ``sockets`` (OpenSSH shows them as ``ssh: <socket>
    [mux]``).
    """

    def masters(known: list[Process]) -> list[Process]:
        return [
            process
            for process in all_processes().values()
            if process.name == "ssh" and command_line(process.pid).startswith(f"ssh: {sockets}/")
        ]

    return end_all(masters, grace=grace)


def end_all(
    find: Callable[[list[Process]], list[Process]],
    *,
    grace: float = 3.0,
    patience: float = 10.0,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Process]:
    """SIGTERM to everything that ``find`` (given what it found last) finds, after ``grace`` seconds SIGKILL, until it
    finds nothing. Return what it still finds after ``patience`` more seconds.
    """
    killing = time.monotonic() + grace
    left: list[Process] = []
    signalled: set[tuple[int, int]] = set()

    def are_gone() -> bool:
        nonlocal left
        # Looked up again: what is ended may have started something meanwhile. What was known stays known: a child whose
        # parent is gone is found by nothing else.
        left = find(left)
        if left and not signalled:
            progress(f"ending {len(left)} processes: {', '.join(sorted({process.name for process in left}))}")
        kill = time.monotonic() >= killing
        for process in left:
            if kill or (process.pid, process.start) not in signalled:
                signalled.add((process.pid, process.start))
                _signal(process, signal.SIGKILL if kill else signal.SIGTERM)
        return not left

    wait.until(are_gone, killing + patience, pause=0.05)
    return left


def _signal(process: Process, number: signal.Signals) -> None:
    """Signal exactly this process: a pid can be given anew between looking and signalling, a pidfd cannot."""
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
