"""Environments of a test run in pytest's own process: created on first use, shared, released."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines

from devenv import errors as devenv_errors
from devenv.testing.allocators import base, devenv, guard, hardware_file, leases
from devenv.testing.demand import Demand
from devenv.testing.errors import AllocationFailed, TestingError
from devenv.testing.objects import BaseConfig
from devenv.testing.settings import Settings

if TYPE_CHECKING:
    import pytest


class Manager:
    """Supplies machines for demands; ``report`` prints progress.

    ``entered``: environments that this process uses, and whether it has a lease on them; ``item``: the present test.
    """

    item: pytest.Item

    def __init__(self, settings: Settings, hook: Any, report: Callable[[str], None]) -> None:
        self.settings = settings
        self.entered: dict[str, bool] = {}
        self._hook = hook
        self._report = report
        self._used: Counter[str] = Counter()
        # Failed attempts: the next test gets the same message without another attempt.
        self._failed: dict[str, str] = {}
        self._resources = ExitStack()
        self._policy = leases.Policy(settings.reuse, settings.keep)
        self._leases = leases.Leases(
            self._policy,
            lambda name: self._allocator.is_up(name),
            lambda name: self._allocator.down(name),
            settings.most,
        )

    def key(self, demand: Demand, place: str) -> str:
        """Return the name of the environment for the demand.

        ``place``: the module or test that it is limited to; empty for the whole run. Environments for reuse have the
        same name in every run.
        """
        parts = [demand.digest, place, repr(sorted(self.settings.overrides.items()))]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
        return f"pytest-{digest}" if self.settings.reuse else f"pytest-{digest}-{self.settings.run}"

    @property
    def is_remote(self) -> bool:
        """Whether machines may be of other kinds than nodes of this machine. Raises ValueError, see base.find."""
        return bool(getattr(base.find(self.settings.allocator), "remote", False)) or self.settings.hardware is not None

    # --- machines ---

    def acquire(self, key: str, demand: Demand) -> tuple[BaseConfig, bool]:
        """Return the machines of ``key``, and whether a test used them before. Raises AllocationFailed."""
        if key in self._failed:
            raise AllocationFailed(f"as before: {self._failed[key]}")
        try:
            with devenv_errors.translated():
                return self._acquire(key, demand)
        except devenv_errors.Error as error:
            lines = (str(error), error.advice, f"log: {error.log}" if error.log else "")
            self._failed[key] = "\n".join(filter(None, lines))
            raise AllocationFailed(self._failed[key]) from error
        except TestingError as error:
            self._failed[key] = str(error)
            raise

    def _acquire(self, key: str, demand: Demand) -> tuple[BaseConfig, bool]:
        machines, install = self._machines, self.settings.install
        if self.settings.environment:
            return self._look_up(key, demand, lambda: devenv.existing(self.settings.environment, demand))
        if machines and machines.has_clusters(demand):
            return self._look_up(key, demand, lambda: machines.allocation(demand, self._private))
        if demand.clusters and not install and (machines or not self._allocator.is_up(key)):
            names = ", ".join(cluster.name for cluster in demand.clusters)
            raise AllocationFailed(
                f"no ready cluster for {names}; --install creates one (or use an existing one: --devenv-env, "
                "--provisioned-hardware)"
            )
        return self._create(key, demand)

    def _look_up(self, key: str, demand: Demand, look_up: Callable[[], BaseConfig]) -> tuple[BaseConfig, bool]:
        if key in self.entered:
            base_config = look_up()
        else:
            self._hook.pytest_before_provisioning(name=key, demand=demand, item=self.item)
            base_config = look_up()
            self.entered[key] = False
            self._hook.pytest_after_provisioning(name=key, demand=demand, item=self.item)
        self._used[key] += 1
        return base_config, self._used[key] > 1

    def _create(self, key: str, demand: Demand) -> tuple[BaseConfig, bool]:
        def report(text: str) -> None:
            self._report(f"{key}: {text}")

        def make() -> None:
            report(f"creating {_shape(demand)}")
            self._hook.pytest_before_provisioning(name=key, demand=demand, item=self.item)
            self._allocator.up(key, demand, timeout=up_limit(self.settings.up_timeout, demand.engine), report=report)
            self._hook.pytest_after_provisioning(name=key, demand=demand, item=self.item)

        need = self._allocator.need(demand)
        self.entered[key] = True
        used = self._leases.enter(key, need, make, report, refresh=self.settings.install)
        self._allocator.hold(key)
        return self._allocator.describe(key, demand), used

    @cached_property
    def _machines(self) -> hardware_file.Provisioned | None:
        return hardware_file.read_file(self.settings.hardware) if self.settings.hardware else None

    @cached_property
    def _allocator(self) -> base.Allocator:
        hosts = {"hosts": self._machines.for_profile()} if self._machines else {}
        settings = {"overrides": self.settings.overrides, **self.settings.service, **hosts}
        allocator = base.load(self.settings.allocator, settings)
        child = guard.start(
            {
                "process": asdict(leases.this_process()),
                "allocator": self.settings.allocator,
                "allocator_settings": settings,
                "policy": asdict(self._policy),
                "path": [path for path in sys.path if path],
            }
        )
        for finish in (child.wait, child.kill, allocator.close):
            self._resources.callback(finish)
        return allocator

    @cached_property
    def _private(self) -> Path:
        """A folder of this process for secrets and sockets."""
        return Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="devenv-test-")))

    def _is_leased(self, key: str) -> bool:
        return self.entered.get(key, False) and key in self._leases.names()

    @contextmanager
    def installing(self, key: str) -> Iterator[bool]:
        """Yield whether the install stage still has to run on the machines of ``key``; see Leases.installing."""
        if self._is_leased(key):
            with self._leases.installing(key) as todo:
                yield todo
        else:
            yield self._used[key] <= 1

    def mark_installed(self, key: str) -> None:
        """Record that the install stage is complete."""
        if self._is_leased(key):
            self._leases.mark_installed(key)

    # --- the end of tests ---

    def after_test(self, key: str, *, failed: bool) -> None:
        """Record the end of a test on the machines of ``key``, or of its process."""
        if self._is_leased(key):
            self._leases.idle(key, failed=failed)

    def release(self, keys: Iterable[str]) -> None:
        """Release all of these environments that this process uses, then raise the last error, if there was one."""
        with ExitStack() as stack:
            for key in keys:
                if key in self.entered:
                    stack.callback(self._release, key)

    def _release(self, key: str) -> None:
        leased = self._is_leased(key)
        del self.entered[key]
        self._hook.pytest_before_release(name=key)
        removed = False
        if leased:
            if self._policy.keeps(self._leases.read(key)):
                self._report(f"{key}: kept (devenv status -n {key}; devenv down -n {key})")
            removed = self._leases.leave(key)
            if removed:
                self._report(f"{key}: removed")
        self._hook.pytest_after_release(name=key, taken_down=removed)

    def close(self) -> None:
        """Release everything and stop the guard."""
        with self._resources:
            self.release(list(self.entered))


def up_limit(given: float | None, engine: str) -> float | None:
    """Return the time limit for creating an environment: ``given`` (0: none), else that of its engine."""
    if given is not None:
        return given or None
    return engines.traits(engine if engine in engines.names() else engines.default())["up_timeout"]


def _shape(demand: Demand) -> str:
    counts = [(len(demand.hosts), "host"), (len(demand.clusters), "cluster")]
    return ", ".join(f"{count} {noun}{'s' if count != 1 else ''}" for count, noun in counts if count)
