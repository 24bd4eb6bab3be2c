"""Environments of one test run, in the process that pytest runs in: made on first use, shared, given back."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from devenv import errors as devenv_errors
from devenv.testing.allocators import existing, guard, hardware_file, leases
from devenv.testing.allocators.allocation import Allocation
from devenv.testing.allocators.base import Allocator
from devenv.testing.allocators.hardware_file import Provisioned
from devenv.testing.allocators.load import load
from devenv.testing.demand import Demand
from devenv.testing.errors import AllocationFailed, TestingError
from devenv.testing.settings import Settings

NO_CLUSTER = (
    "no ready cluster for {}; --install makes one (or name what is there: --devenv-env, --provisioned-hardware)"
)


class Manager:
    """Finds machines for demands. ``say`` is for lines that people read while they wait."""

    def __init__(self, settings: Settings, hook: Any, say: Callable[[str], None]) -> None:
        self.settings = settings
        self._hook = hook
        self._say = say
        self._guard: subprocess.Popen[bytes] | None = None
        self._private: tempfile.TemporaryDirectory[str] | None = None
        self._used: Counter[str] = Counter()
        # Machines that could not be had: the next test is told the same at once.
        self._failed: dict[str, str] = {}
        self._entered: dict[str, Demand] = {}
        self._allocator: Allocator | None = None
        self._allocator_settings: dict[str, Any] = {}

    # --- names ---

    def key(self, demand: Demand, place: str) -> str:
        """Name of the environment that serves the demand. ``place``: the module or test that it is not shared beyond;
        empty for the whole run. Environments that are to be used again have the same name in every run.
        """
        words = [demand.digest, place, repr(sorted(self.settings.overrides.items()))]
        digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]
        return f"pytest-{digest}" if self.settings.reuse else f"pytest-{digest}-{self.settings.run}"

    # --- machines ---

    def acquire(self, key: str, demand: Demand) -> tuple[Allocation, bool]:
        """The machines of ``key``, and whether a test used them before. Raises AllocationFailed."""
        if key in self._failed:
            raise AllocationFailed(f"as before: {self._failed[key]}")
        try:
            found, used = self._found(key, demand)
        except devenv_errors.Error as error:
            text = "\n".join(filter(None, (str(error), error.advice, f"log: {error.log}" if error.log else "")))
            self._failed[key] = text
            raise AllocationFailed(text) from error
        except TestingError as error:
            self._failed[key] = str(error)
            raise
        return replace(found, key=key), used

    def _found(self, key: str, demand: Demand) -> tuple[Allocation, bool]:
        if self.settings.environment:
            return self._looked_up(key, demand, lambda: existing.existing(self.settings.environment, demand))
        provisioned = hardware_file.read_file(self.settings.hardware) if self.settings.hardware else None
        if provisioned:
            if provisioned.has_clusters(demand):
                return self._looked_up(key, demand, lambda: provisioned.allocation(demand, self.private))
            if not self.settings.install:
                raise AllocationFailed(NO_CLUSTER.format(_clusters(demand)))
        return self._made(key, demand, provisioned)

    def _looked_up(self, key: str, demand: Demand, look: Callable[[], Allocation]) -> tuple[Allocation, bool]:
        if key not in self._entered:
            self._hook.pytest_before_provisioning(name=key, demand=demand)
        found = look()
        if key not in self._entered:
            self._entered[key] = demand
            self._hook.pytest_after_provisioning(name=key, demand=demand)
        self._used[key] += 1
        return found, self._used[key] > 1

    def _made(self, key: str, demand: Demand, provisioned: Provisioned | None) -> tuple[Allocation, bool]:
        allocator = self.allocator(provisioned)
        if demand.clusters and not self.settings.install and not allocator.is_up(key):
            raise AllocationFailed(NO_CLUSTER.format(_clusters(demand)))
        self._start_guard()

        def make() -> None:
            self._say(f"{key}: makes {_shape(demand)}")
            self._hook.pytest_before_provisioning(name=key, demand=demand)
            allocator.up(
                key, demand, timeout=self.settings.up_timeout or None, say=lambda stage: self._say(f"{key}: {stage}")
            )
            self._hook.pytest_after_provisioning(name=key, demand=demand)

        self._entered[key] = demand
        used = self.leases.enter(
            key, allocator.need(demand), make, lambda text: self._say(f"{key}: {text}"), refresh=self.settings.install
        )
        allocator.hold(key)
        return allocator.describe(key, demand), used

    def allocator(self, provisioned: Provisioned | None = None) -> Allocator:
        if self._allocator is None:
            self._allocator_settings = {"overrides": self.settings.overrides, **self.settings.service}
            if provisioned:
                self._allocator_settings["hosts"] = provisioned.for_profile()
            self._allocator = load(self.settings.allocator, self._allocator_settings)
        return self._allocator

    @property
    def leases(self) -> leases.Leases:
        allocator = self.allocator()
        policy = leases.Policy(self.settings.reuse, self.settings.keep)
        return leases.Leases(policy, allocator.is_up, allocator.down, self.settings.most)

    @property
    def private(self) -> Path:
        """A folder of this process for secrets and sockets; gone with it."""
        if self._private is None:
            self._private = tempfile.TemporaryDirectory(prefix="devenv-test-")
        return Path(self._private.name)

    @contextlib.contextmanager
    def installing(self, key: str) -> Iterator[bool]:
        """Whether the install stage is still to be run on the machines of ``key``; see Leases.installing."""
        if self._is_ours(key):
            with self.leases.installing(key) as todo:
                yield todo
        else:
            yield self._used[key] <= 1

    def _is_ours(self, key: str) -> bool:
        return key in self._entered and bool(self._allocator) and key in self.leases.names()

    # --- the end of tests ---

    def after_test(self, key: str, *, failed: bool) -> None:
        """A test on the machines of ``key`` has ended, or its process."""
        if self._is_ours(key):
            self.leases.idle(key, failed=failed)

    def release(self, keys: Iterable[str]) -> None:
        """Give environments back. All are tried; the first error is raised then."""
        errors: list[Exception] = []
        for key in list(keys):
            if key not in self._entered:
                continue
            try:
                self._release(key)
            except Exception as error:  # the others shall be given back, too
                errors.append(error)
        if errors:
            raise errors[0]

    def _release(self, key: str) -> None:
        del self._entered[key]
        self._hook.pytest_before_release(name=key)
        gone = False
        if self._allocator and key in self.leases.names():
            lease = self.leases.read(key)
            if self.leases.policy.keeps(lease):
                self._say(f"{key}: is kept (devenv status -n {key}; devenv down -n {key})")
            gone = self.leases.leave(key)
            if gone:
                self._say(f"{key}: taken down")
        self._hook.pytest_after_release(name=key, taken_down=gone)

    def close(self) -> None:
        """Give everything back, and end the guard."""
        try:
            self.release(list(self._entered))
        finally:
            if self._allocator:
                self._allocator.close()
            if self._guard:
                self._guard.kill()
                self._guard.wait()
                self._guard = None
            if self._private:
                self._private.cleanup()
                self._private = None

    def _start_guard(self) -> None:
        if self._guard is not None:
            return
        policy = leases.as_data(leases.Policy(self.settings.reuse, self.settings.keep), self.settings.most)
        self._guard = guard.start(
            {
                "process": asdict(leases.me()),
                "allocator": self.settings.allocator,
                "allocator_settings": self._allocator_settings,
                "path": [path for path in sys.path if path],
                **policy,
            }
        )

    @property
    def entered(self) -> Mapping[str, Demand]:
        """Environments of which this process is a user."""
        return dict(self._entered)


def _clusters(demand: Demand) -> str:
    return ", ".join(one.name for one in demand.clusters)


def _shape(demand: Demand) -> str:
    hosts, clusters = len(demand.hosts), len(demand.clusters)
    return f"{hosts} host{'s' if hosts != 1 else ''}" + (
        f", {clusters} cluster{'s' if clusters != 1 else ''}" if clusters else ""
    )
