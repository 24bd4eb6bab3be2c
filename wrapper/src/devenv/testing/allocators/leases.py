"""Who uses an environment that tests made: one record a name, under a file lock, for all processes of this DEVENV_HOME.

``testing/<name>/lease.json``: ``users`` are processes that may come back to it, ``busy`` those in which a test uses it
now; a process counts only while it lives. An environment without users is taken down, unless it is to be kept; one that
is not busy may be taken down when another needs the room, and its users make it anew.
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
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.host import probes as host

from devenv.testing.errors import AllocationFailed

# Between two looks at whether there is room.
PAUSE = 0.5


@dataclass(frozen=True)
class Process:
    """A process that cannot be taken for a later one with its pid: ``start`` in clock ticks after boot."""

    pid: int
    start: int

    @property
    def is_alive(self) -> bool:
        return start_of(self.pid) == self.start


def start_of(pid: int) -> int:
    """When a process started, in clock ticks after boot; 0 for one that is gone, or ended without being waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def me() -> Process:
    """This process."""
    return Process(os.getpid(), start_of(os.getpid()))


@dataclass(frozen=True)
class Lease:
    """``state``: absent, making, up, kept (no run takes it down any more). ``ups`` counts how often it was made,
    ``tests`` the tests that began on it; ``need`` is memory in bytes, ``failed`` says whether a test on it failed,
    ``installed`` whether installers have done their part.
    """

    state: str = "absent"
    ups: int = 0
    need: int = 0
    tests: int = 0
    failed: bool = False
    installed: bool = False
    users: tuple[Process, ...] = ()
    busy: tuple[Process, ...] = ()

    def alive(self) -> Lease:
        """Without processes that are gone."""
        return replace(
            self,
            users=tuple(one for one in self.users if one.is_alive),
            busy=tuple(one for one in self.busy if one.is_alive),
        )


@dataclass(frozen=True)
class Policy:
    """What is to become of environments: ``reuse`` leaves all for the next run, ``keep`` those with a failed test."""

    reuse: bool = False
    keep: bool = False

    def keeps(self, lease: Lease) -> bool:
        return self.reuse or (self.keep and lease.failed)


@dataclass(frozen=True)
class Leases:
    """All leases below one DEVENV_HOME. ``most``: how many environments there may be at once."""

    policy: Policy
    is_up: Callable[[str], bool]
    down: Callable[[str], None]
    most: int = 0
    patience: float = 3600
    top: Path = field(default_factory=lambda: paths.home() / "testing")

    def read(self, name: str) -> Lease:
        """The lease as it is written; one that cannot be read is none."""
        data = files.read_json(self.top / name / "lease.json", dict) or {}
        try:
            return Lease(
                **{
                    **data,
                    "users": tuple(Process(**one) for one in data["users"]),
                    "busy": tuple(Process(**one) for one in data["busy"]),
                }
            )
        except (TypeError, KeyError):
            return Lease()

    def write(self, name: str, lease: Lease) -> None:
        files.write(self.top / name / "lease.json", json.dumps(asdict(lease)))

    def names(self) -> list[str]:
        """Names of which there is a lease."""
        return sorted(path.parent.name for path in self.top.glob("*/lease.json"))

    def enter(
        self, name: str, need: int, make: Callable[[], None], say: Callable[[str], None], *, refresh: bool = False
    ) -> bool:
        """Be a user of ``name``, busy with it; call ``make`` when it is not up, with ``refresh`` also when another run
        has left it. Return whether a test began on it before. Raises what ``make`` raises, AllocationFailed when there
        was no room in time.
        """
        with self._locked(name):
            lease = self.read(name).alive()
            own = me()
            lease = replace(lease, users=_with(lease.users, own), busy=_with(lease.busy, own))
            left = lease.state == "kept"
            if lease.state in ("up", "kept") and self.is_up(name):
                if left and refresh:
                    make()
                self.write(name, replace(lease, state="up", tests=lease.tests + 1, failed=lease.failed and not left))
                return lease.tests > 0
            self._make_room(name, need, replace(lease, state="making", need=need, installed=False), say)
            try:
                make()
            except BaseException:
                # It is there in part: whoever leaves last takes it down.
                self.write(name, replace(lease, state="making", busy=_without(lease.busy, own), failed=True))
                raise
            self.write(name, replace(lease, state="up", ups=lease.ups + 1, need=need, tests=1, installed=False))
            return False

    def idle(self, name: str, *, failed: bool = False) -> None:
        """A test of this process has ended."""
        with self._locked(name):
            lease = self.read(name)
            self.write(name, replace(lease, busy=_without(lease.busy, me()), failed=lease.failed or failed))

    def leave(self, name: str, who: Process | None = None, *, failed: bool = False) -> bool:
        """Be no user any more; the last one takes it down, unless it is to be kept. Return whether it is gone."""
        with self._locked(name):
            lease, one = self.read(name), who or me()
            lease = replace(lease, users=_without(lease.users, one), busy=_without(lease.busy, one)).alive()
            lease = replace(lease, failed=lease.failed or failed)
            if not lease.users and lease.state == "absent":
                self._forget(name)
                return False
            if lease.users:
                self.write(name, lease)
                return False
            if self.policy.keeps(lease):
                self.write(name, replace(lease, state="kept"))
                return False
            self._take_down(name, lease)
            return True

    @contextlib.contextmanager
    def installing(self, name: str) -> Iterator[bool]:
        """Whether installers have still to do their part; nobody else does it meanwhile. It counts as done when the
        block ends well.
        """
        path = self.top / name / "install.lock"
        with files.exclusive(path):
            with self._locked(name):
                todo = not self.read(name).installed
            yield todo
            if todo:
                with self._locked(name):
                    self.write(name, replace(self.read(name), installed=True))

    def _make_room(self, name: str, need: int, lease: Lease, say: Callable[[str], None]) -> None:
        """Wait until the machine has room for one more, then write ``lease``."""
        end = time.monotonic() + self.patience
        told = False
        while True:
            with self._locked(".room"):
                others = {one: self.read(one).alive() for one in self.names() if one != name}
                # One that someone else has taken down takes no room.
                others = {one: o for one, o in others.items() if o.state == "making" or self.is_up(one)}
                if self._has_room(need, others):
                    self.write(name, lease)
                    return
            if any(self._evict(one) for one in others if not others[one].busy):
                continue
            if time.monotonic() > end:
                raise AllocationFailed(
                    f"no room for another environment after {self.patience:g} s; there are {', '.join(others)}"
                )
            if not told:
                say(f"waits for room: {', '.join(others)}")
                told = True
            time.sleep(PAUSE)

    def _has_room(self, need: int, others: Mapping[str, Lease]) -> bool:
        # What was kept because a test failed stays, whatever the limit; the memory that it takes is taken.
        counted = [other for other in others.values() if not (other.state == "kept" and other.failed)]
        if not counted:
            return True  # the preflight of the environment says what is lacking
        if self.most and len(counted) >= self.most:
            return False
        # What is being made has not taken its memory yet.
        promised = sum(other.need for other in counted if other.state == "making" and other.users)
        return host.available_memory() >= need + promised

    def _evict(self, name: str) -> bool:
        """Take down one that nobody is busy with, unless it is kept for its failure or someone works on it."""
        with self._locked(name, wait=False) as got:
            if not got:
                return False
            lease = self.read(name).alive()
            if lease.busy or lease.state == "absent" or (lease.failed and self.policy.keep):
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
        """Hold the lock of a name. Its file lies beside the folder and is removed, while held, with the name's last."""
        self.top.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.top / f"{name}.lock"
        while True:
            with open(path, "a") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                except BlockingIOError:
                    yield False
                    return
                # A file that was removed meanwhile locks nobody out.
                if path.exists() and os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                    yield True
                    return


def _with(processes: tuple[Process, ...], one: Process) -> tuple[Process, ...]:
    return processes if one in processes else (*processes, one)


def _without(processes: tuple[Process, ...], one: Process) -> tuple[Process, ...]:
    return tuple(other for other in processes if other != one)


def as_data(policy: Policy, most: int) -> dict[str, Any]:
    """What the guard has to know."""
    return {"policy": asdict(policy), "most": most}
