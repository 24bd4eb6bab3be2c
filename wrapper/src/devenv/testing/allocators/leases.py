"""Users of the environments that tests created: one record per name, for all processes of this DEVENV_HOME.

``testing/<name>/lease.json`` is protected by a file lock. ``users`` are processes that may return to the environment,
``busy`` those in which a test uses it now; a process counts only while it lives. An environment without users is
removed unless it must be kept. One that is not busy may be removed when another needs the room; its users then
recreate it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths, processes
from ansible_collections.devenv.lab.plugins.plugin_utils.host import probes as host

from devenv.testing.errors import AllocationFailed

# Seconds between two checks for room.
PAUSE = 0.5


@dataclass(frozen=True)
class Process:
    """A process, distinct from a later one with the same pid: ``start`` is in clock ticks after boot."""

    pid: int
    start: int

    @property
    def is_alive(self) -> bool:
        return processes.alive(self.pid, self.start)


def this_process() -> Process:
    """Return the calling process."""
    process = processes.read_process(os.getpid())
    assert process is not None
    return Process(process.pid, process.start)


@dataclass(frozen=True)
class Lease:
    """Record of an environment. ``state``: absent, making, up, kept (left for a later run); ``need``: memory in bytes;
    ``failed``: a test on it failed; ``installed``: the install stage is complete.
    """

    state: str = "absent"
    need: int = 0
    failed: bool = False
    installed: bool = False
    users: tuple[Process, ...] = ()
    busy: tuple[Process, ...] = ()

    def alive(self, without: Process | None = None) -> Lease:
        """Return the lease without dead processes and without the given one."""

        def counted(processes: tuple[Process, ...]) -> tuple[Process, ...]:
            return tuple(process for process in processes if process != without and process.is_alive)

        return replace(self, users=counted(self.users), busy=counted(self.busy))


@dataclass(frozen=True)
class Policy:
    """Which environments a run leaves: with ``reuse`` all, with ``keep`` those on which a test failed."""

    reuse: bool = False
    keep: bool = False

    def keeps(self, lease: Lease) -> bool:
        return self.reuse or (self.keep and lease.failed)


@dataclass(frozen=True)
class Leases:
    """All leases below one DEVENV_HOME. ``most``: maximum number of environments at once, 0 for no limit."""

    policy: Policy
    is_up: Callable[[str], bool]
    down: Callable[[str], None]
    most: int = 0
    patience: float = 3600
    top: Path = field(default_factory=lambda: paths.home() / "testing")

    def read(self, name: str) -> Lease:
        """Return the stored lease, or an empty one if it is missing or invalid."""
        data = files.read_json(self.top / name / "lease.json", dict) or {}
        try:
            members = {key: tuple(Process(**process) for process in data[key]) for key in ("users", "busy")}
            return Lease(**{**data, **members})
        except (TypeError, KeyError):
            return Lease()

    def write(self, name: str, lease: Lease) -> None:
        files.write(self.top / name / "lease.json", json.dumps(asdict(lease)))

    def names(self) -> list[str]:
        """Return the names that have a lease."""
        return sorted(path.parent.name for path in self.top.glob("*/lease.json"))

    def enter(
        self, name: str, need: int, make: Callable[[], None], report: Callable[[str], None], *, refresh: bool = False
    ) -> bool:
        """Register this process as a busy user of ``name``. Return whether tests used the environment before.

        Calls ``make`` if the environment is not up, with ``refresh`` also if an earlier run left it. Raises what
        ``make`` raises, and AllocationFailed if there was no room in time.
        """
        with self._locked(name):
            process = this_process()
            others = self.read(name).alive(without=process)
            lease = replace(others, users=(*others.users, process), busy=(*others.busy, process))
            if lease.state in ("up", "kept") and self.is_up(name):
                kept = lease.state == "kept"
                if kept and refresh:
                    make()
                self.write(name, replace(lease, state="up", failed=lease.failed and not kept))
                return True
            self._make_room(name, replace(lease, state="making", need=need, installed=False), report)
            try:
                make()
            except BaseException:
                # Parts of it exist: the last user removes them.
                self.write(name, replace(lease, state="making", busy=others.busy, failed=True))
                raise
            self.write(name, replace(lease, state="up", need=need, installed=False))
            return False

    def idle(self, name: str, *, failed: bool = False) -> None:
        """Record the end of a test of this process."""
        with self._locked(name):
            lease = self.read(name)
            busy = tuple(process for process in lease.busy if process != this_process())
            self.write(name, replace(lease, busy=busy, failed=lease.failed or failed))

    def leave(self, name: str, process: Process | None = None, *, failed: bool = False) -> bool:
        """Remove a process (default: this one) from the users; the last one removes the environment unless it must be
        kept. Return whether it was removed.
        """
        with self._locked(name):
            lease = self.read(name).alive(without=process or this_process())
            lease = replace(lease, failed=lease.failed or failed)
            if lease.users:
                self.write(name, lease)
            elif lease.state == "absent":
                self._forget(name)
            elif self.policy.keeps(lease):
                self.write(name, replace(lease, state="kept"))
            else:
                self._take_down(name, lease)
                return True
            return False

    @contextlib.contextmanager
    def installing(self, name: str) -> Iterator[bool]:
        """Hold the lock of the install stage. Yield whether the stage still has to run; see `mark_installed`."""
        with files.exclusive(self.top / name / "install.lock"):
            yield not self.read(name).installed

    def mark_installed(self, name: str) -> None:
        """Record that the install stage is complete."""
        with self._locked(name):
            self.write(name, replace(self.read(name), installed=True))

    def _make_room(self, name: str, lease: Lease, report: Callable[[str], None]) -> None:
        """Wait until there is room for one more environment, then write ``lease``."""
        end = time.monotonic() + self.patience
        reported = False
        while True:
            with self._locked(".room"):
                others = {other: self.read(other).alive() for other in self.names() if other != name}
                # One that was removed by other means takes no room.
                others = {other: o for other, o in others.items() if o.state == "making" or self.is_up(other)}
                if self._has_room(lease.need, others):
                    self.write(name, lease)
                    return
            if any(self._evict(other) for other in others if not others[other].busy):
                continue
            if time.monotonic() > end:
                raise AllocationFailed(
                    f"no room for another environment after {self.patience:g} s; there are {', '.join(others)}"
                )
            if not reported:
                report(f"waiting for room: {', '.join(others)}")
                reported = True
            time.sleep(PAUSE)

    def _has_room(self, need: int, others: Mapping[str, Lease]) -> bool:
        # An environment that was kept for a failed test does not count against the limit; its memory does.
        counted = [other for other in others.values() if not (other.state == "kept" and other.failed)]
        if not counted:
            return True  # the environment's own preflight reports a lack of memory
        if self.most and len(counted) >= self.most:
            return False
        # An environment in the making has not taken its memory yet.
        promised = sum(other.need for other in counted if other.state == "making" and other.users)
        return host.available_memory() >= need + promised

    def _evict(self, name: str) -> bool:
        """Remove an environment unless it is busy, locked, or kept for a failed test."""
        with self._locked(name, wait=False) as locked:
            lease = self.read(name).alive()
            if not locked or lease.busy or lease.state == "absent" or (lease.failed and self.policy.keep):
                return False
            self._take_down(name, lease)
            return True

    def _take_down(self, name: str, lease: Lease) -> None:
        self.down(name)
        if lease.users:
            self.write(name, replace(lease, state="absent", installed=False))
        else:
            self._forget(name)

    def _forget(self, name: str) -> None:
        shutil.rmtree(self.top / name, ignore_errors=True)
        (self.top / f"{name}.lock").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of a name. Its file is next to the folder and is removed, while locked, with the folder."""
        self.top.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.top / f"{name}.lock"
        while True:
            with open(path, "a") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                except BlockingIOError:
                    yield False
                    return
                # A lock on a removed file excludes nobody.
                if path.exists() and os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                    yield True
                    return
