"""The lock of an environment. It names the ansible process that works on it, so that a stale lock does no harm.

The file ``lock`` in the state directory is a Holder in JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, processes
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

NAME = "lock"


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, or held it (see ``is_alive``).

    ``start`` is in clock ticks after boot, ``since`` is UTC in ISO 8601; ``owner_*`` name the command that started
    ansible, 0 for none.
    """

    pid: int
    start: int
    boot: str
    image: str
    pipes: tuple[str, ...]
    command: str
    owner_pid: int
    owner_start: int
    run_id: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}) since {self.since}"

    @property
    def origin(self) -> processes.Origin:
        return processes.Origin(self.pid, self.start, self.image, self.pipes)


def parse_owner(text: str) -> tuple[int, int]:
    """Parse ``pid:start``, the form of the variable DEVENV_OWNER; return (0, 0) for anything else."""
    pid, start = text.partition(":")[::2]
    return (int(pid), int(start)) if pid.isdigit() and start.isdigit() else (0, 0)


def holder_of(pid: int, run_id: str, command: str, owner: str = "") -> Holder:
    """Return a Holder for the living process ``pid``. Raises DevenvError ``run_ended`` if it does not exist."""
    origin = processes.origin(pid)
    if origin is None:
        raise DevenvError("run_ended", f"the ansible process {pid} of this run is gone")
    owner_pid, owner_start = parse_owner(owner)
    return Holder(
        **asdict(origin),
        boot=processes.boot_id(),
        command=command,
        owner_pid=owner_pid,
        owner_start=owner_start,
        run_id=run_id,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def read(folder: Path) -> Holder | None:
    """Return the holder in the lock file; None if there is no lock, or a truncated one, which nobody holds. Raises
    DevenvError ``state_broken`` if the file cannot be read.
    """
    try:
        data = json.loads((folder / NAME).read_text())
        return Holder(**{**data, "pipes": tuple(data["pipes"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    except OSError as error:
        raise DevenvError("state_broken", f"cannot be read: {error.strerror}", where=str(folder / NAME)) from None


def is_alive(holder: Holder) -> bool:
    """Return whether the holder still runs: its process and the command that started it, if any, since this boot."""
    if holder.boot != processes.boot_id() or not processes.alive(holder.pid, holder.start):
        return False
    return holder.owner_pid == 0 or processes.alive(holder.owner_pid, holder.owner_start)


def is_same(first: Holder, second: Holder) -> bool:
    """Return whether both are the same ansible process."""
    return (first.pid, first.start, first.boot) == (second.pid, second.start, second.boot)


def check(folder: Path) -> None:
    """Raise DevenvError ``environment_busy`` if another run works on the environment; do not take the lock."""
    holder = read(folder)
    if holder is not None and is_alive(holder):
        raise _busy(folder, holder)


def acquire(folder: Path, me: Holder, *, progress: Callable[[str], None] = lambda text: None) -> bool:
    """Take the lock of the state directory and create that (0700) if it is missing. Return False if ``me`` has it.

    First stops the processes that a dead holder left. Raises DevenvError ``environment_busy`` if another run holds it,
    ``leftovers_remain`` if a killed run's processes cannot be stopped, ``state_unwritable``.
    """
    dead: Holder | None = None
    while True:
        with guard(folder):
            holder = read(folder)
            if holder is not None and is_same(holder, me):
                return False
            if holder == dead:
                folder.mkdir(mode=0o700, exist_ok=True)
                files.write(folder / NAME, json.dumps(asdict(me)) + "\n")
                return True
            if holder is not None and is_alive(holder):
                raise _busy(folder, holder)
            dead = holder
        # Outside the guard, because it can take seconds. If two runs find the same dead holder, both stop its
        # processes, and the first to return gets the lock.
        if dead is not None:
            _end(dead, me, progress)


def release(folder: Path, me: Holder) -> bool:
    """Release the lock; return False if ``me`` does not hold it."""
    if not folder.is_dir():
        return False
    with guard(folder):
        holder = read(folder)
        if holder is None or not is_same(holder, me):
            return False
        (folder / NAME).unlink()
        return True


def _end(dead: Holder, me: Holder, progress: Callable[[str], None]) -> None:
    if dead.boot != processes.boot_id():
        return
    progress(f"the run of {dead} was killed; stopping its remaining processes")
    remaining = processes.end_run(dead.run_id, dead.origin, protect=[me.pid], progress=progress)
    if remaining:
        names = ", ".join(f"{process.pid} ({process.name})" for process in remaining)
        raise DevenvError("leftovers_remain", f"processes of a killed run do not stop: {names}")


def _busy(folder: Path, holder: Holder) -> DevenvError:
    return DevenvError("environment_busy", f"{holder} holds the environment {folder.name}")


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[None]:
    """Serialise access to all lock files of this DEVENV_HOME (by flock of the directory ``environments``)."""
    try:
        folder.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise DevenvError("state_unwritable", f"{error.strerror}", where=str(folder.parent)) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise DevenvError("state_unwritable", f"{error.strerror}", where=str(error.filename or folder)) from None
    finally:
        os.close(handle)
