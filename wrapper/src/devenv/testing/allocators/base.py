"""Interface of allocators, which supply the machines of a test."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv.testing.demand import Demand
from devenv.testing.errors import AllocationFailed
from devenv.testing.objects import BaseConfig

BUILT_IN = {
    "devenv": "devenv.testing.allocators.devenv:Devenv",
    "habertest": "devenv.testing.allocators.habertest:Habertest",
}


class Allocator(Protocol):
    """Creates environments. Several processes call it; the caller ensures that only one works on a name at a time.

    ``remote``: whether it has machines of other kinds than nodes of this machine; it gets the hosts of a test
    unchanged (`HostDemand.remote`).
    """

    remote: ClassVar[bool] = False

    def need(self, demand: Demand) -> int:
        """Return the memory that the machines will use, in bytes."""

    def up(self, name: str, demand: Demand, *, timeout: float | None, report: Callable[[str], None]) -> None:
        """Create or complete the environment. Raises devenv.Error or AllocationFailed."""

    def is_up(self, name: str) -> bool:
        """Return whether the environment was completed once and still exists."""

    def down(self, name: str) -> None:
        """Remove the environment; does nothing if it does not exist."""

    def describe(self, name: str, demand: Demand) -> BaseConfig:
        """Return the machines of an environment that is up."""

    def hold(self, name: str) -> None:
        """Keep the environment for this process from now on."""
        return

    def close(self) -> None:
        """Stop keeping environments for this process."""
        return


def find(name: str) -> Callable[..., Allocator]:
    """Return the class of an allocator: devenv, habertest or ``module:attribute``. Raises ValueError."""
    try:
        found: Callable[..., Allocator] = pkgutil.resolve_name(BUILT_IN.get(name, name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"allocator {name}: {error}; known: {', '.join(BUILT_IN)}, or module:attribute") from None
    return found


def load(name: str, settings: Mapping[str, Any]) -> Allocator:
    """Return the allocator ``name`` with ``settings``."""
    return find(name)(**settings)


def folder(name: str) -> Path:
    """Return the folder of test data about the environment ``name``."""
    return paths.home() / "testing" / name


def pair(hosts: Sequence[str], machines: Sequence[str], where: str = "") -> dict[str, str]:
    """Return the machine of each of a test's hosts: the one of the same name, else the next of the remaining, sorted.

    The result depends on names only, so that it is the same each time. Raises AllocationFailed if there are too few
    machines; the message begins with ``where``.
    """
    if len(hosts) > len(machines):
        names = ", ".join(sorted(machines)) or "none"
        raise AllocationFailed(f"{where}{len(hosts)} hosts are requested, but there are only {len(machines)}: {names}")
    remaining = iter(sorted(machine for machine in machines if machine not in hosts))
    return {host: host if host in machines else next(remaining) for host in hosts}
