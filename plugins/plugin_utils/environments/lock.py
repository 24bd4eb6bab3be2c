"""The lock of an environment: names the ansible process that works on it, so that it can go stale without harm.

File ``lock`` in the state folder, JSON: ``{"pid", "start", "boot", "image", "pipes", "command", "owner_pid",
"owner_start", "run_id", "since"}``. ``start`` is in clock ticks after boot, ``since`` is UTC in ISO 8601; ``owner_*``
name the command that started ansible, 0 for none.
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
    """Who holds a lock (or held it: see ``is_alive``)."""

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
    """``pid:start`` of the variable DEVENV_OWNER; (0, 0) for anything else."""
    pid, start = text.partition(":")[::2]
    return (int(pid), int(start)) if pid.isdigit() and start.isdigit() else (0, 0)


def holder_of(pid: int, run_id: str, command: str, owner: str = "") -> Holder:
    """A Holder for the living process ``pid``. Raises DevenvError ``run_ended`` when there is no such process."""
    origin = processes.origin(pid)
    if origin is None:
        raise DevenvError("run_ended", f"the ansible process {pid} of this run is gone")
    owner_pid, owner_start = parse_owner(owner)
    return Holder(
        pid=pid,
        start=origin.start,
        boot=processes.boot_id(),
        image=origin.image,
        pipes=origin.pipes,
        command=command,
        owner_pid=owner_pid,
        owner_start=owner_start,
        run_id=run_id,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def read(folder: Path) -> Holder | None:
    """Who is written in the lock of the state folder; None for no lock, or one cut short (nobody's then)."""
    try:
        data = json.loads((folder / NAME).read_text())
        return Holder(**{**data, "pipes": tuple(data["pipes"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        return None


def is_alive(holder: Holder) -> bool:
    """Whether the holder works on: same boot, its process lives, and so does the command that started it, if any."""
    if holder.boot != processes.boot_id() or not processes.alive(holder.pid, holder.start):
        return False
    return holder.owner_pid == 0 or processes.alive(holder.owner_pid, holder.owner_start)


def is_same(one: Holder, other: Holder) -> bool:
    """Whether both name the same ansible process."""
    return (one.pid, one.start, one.boot) == (other.pid, other.start, other.boot)


def check(folder: Path) -> None:
    """Raise DevenvError ``environment_busy`` when somebody works on the environment; take nothing."""
    holder = read(folder)
    if holder is not None and is_alive(holder):
        raise _busy(folder, holder)


def acquire(folder: Path, me: Holder, *, progress: Callable[[str], None] = lambda text: None) -> bool:
    """Take the lock of the state folder, which is made (0700) when it is not there. Return False when ``me`` had it
    already.

    Ends what a dead holder left running before. Raises DevenvError ``environment_busy`` when somebody holds it,
    ``leftovers_remain`` when a killed run's processes cannot be ended, ``state_unwritable``.
    """
    while True:
        with guard(folder):
            found = read(folder)
            if found is not None and is_same(found, me):
                return False
            if found is None:
                _write(folder, me)
                return True
            if is_alive(found):
                raise _busy(folder, found)
        # Outside the guard, since it may take seconds; two that find the same dead holder end the same processes,
        # then one gets it.
        _end(found, me, progress)
        with guard(folder):
            if read(folder) == found:
                _write(folder, me)
                return True


def release(folder: Path, me: Holder) -> bool:
    """Give the lock back; False (and nothing done) when ``me`` does not hold it."""
    if not folder.is_dir():
        return False
    with guard(folder):
        found = read(folder)
        if found is None or not is_same(found, me):
            return False
        (folder / NAME).unlink()
        return True


def _end(found: Holder, me: Holder, progress: Callable[[str], None]) -> None:
    if found.boot != processes.boot_id():
        return
    progress(f"the run of {found} was killed; ending what it left")
    left = processes.end_run(found.run_id, found.origin, protect=[me.pid], progress=progress)
    if left:
        names = ", ".join(f"{process.pid} ({process.name})" for process in left)
        raise DevenvError("leftovers_remain", f"processes of a killed run do not end: {names}")


def _busy(folder: Path, holder: Holder) -> DevenvError:
    return DevenvError("environment_busy", f"{holder} holds the environment {folder.name}")


def _write(folder: Path, me: Holder) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    files.write(folder / NAME, json.dumps(asdict(me)) + "\n")


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[None]:
    """Alone on the locks of this home while a lock is looked at and written (flock of the folder of all
    environments).
    """
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
