"""Installers: what a test asks for on a host or a cluster (docs/installers.md).

An installer maps to an engine of the profile or to a role and holds no logic of a cluster itself. Each has stages,
in this order: ``session`` (every test process that uses the environment), ``session_install`` (once an
environment, with --install only), ``runtest_setup`` and ``setup`` (before a test, before and after the cleaning between
tests), ``teardown``.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines

from devenv.testing import entries

if TYPE_CHECKING:
    import pytest

    from devenv.testing.objects import Cluster, Host

GROUP = "devenv.installers"
STAGES = ("session", "session_install", "runtest_setup", "setup", "teardown")
# Of a cluster whose test names none.
DEFAULT = "k8s"
_registered: dict[str, type[Installer]] = {}


class Installer:
    """Base of all installers; a method that is not overridden does nothing.

    ``on``: "cluster" or "host", what its methods get as target. ``needs``: installers that go before it; one for hosts
    that a cluster's installer needs gets each host of the cluster. ``engine`` makes the cluster. ``profile``: keys of
    the environment's profile that it wants, such as ``{"storage": {"enabled": True}}``. ``role``, by its full name, is
    run with ``variables`` on the target's hosts in the stage session_install.
    """

    on: ClassVar[str] = "cluster"
    needs: ClassVar[Sequence[str]] = ()
    engine: ClassVar[str] = ""
    profile: ClassVar[Mapping[str, Any]] = {}
    role: ClassVar[str] = ""
    variables: ClassVar[Mapping[str, Any]] = {}

    def session(self, target: Any, request: pytest.FixtureRequest) -> None:
        return

    def session_install(self, target: Any, request: pytest.FixtureRequest) -> None:
        if self.role:
            from devenv.testing.installers.roles import run_role

            hosts = [target] if self.on == "host" else list(target.hosts.values())
            run_role(self.role, hosts, self.variables)

    def runtest_setup(self, target: Any, request: pytest.FixtureRequest) -> None:
        return

    def setup(self, target: Any, request: pytest.FixtureRequest) -> None:
        return

    def teardown(self, target: Any, request: pytest.FixtureRequest) -> None:
        return


class Ssh(Installer):
    """A host that answers ssh."""

    on = "host"

    def session(self, target: Host, request: pytest.FixtureRequest) -> None:
        target.SshDirect.ping()


class K8s(Installer):
    """Plain Kubernetes."""

    needs = ("ssh",)
    engine = engines.of_installer("k8s")

    def session(self, target: Cluster, request: pytest.FixtureRequest) -> None:
        target.Kubectl.ping()


class CoreK8s(Installer):
    """Kubernetes with a default StorageClass."""

    needs = ("k8s",)
    profile: ClassVar[Mapping[str, Any]] = {"storage": {"enabled": True}}


class DevopsK8s(Installer):
    """What core_k8s has, and metrics of nodes and pods."""

    needs = ("core_k8s",)
    profile: ClassVar[Mapping[str, Any]] = {"metrics": {"enabled": True}}


class DevopsGravity(Installer):
    """A Gravity cluster."""

    needs = ("ssh",)
    engine = engines.of_installer("devops_gravity")

    def session(self, target: Cluster, request: pytest.FixtureRequest) -> None:
        target.Kubectl.ping()


BUILT_IN: Mapping[str, type[Installer]] = {
    "ssh": Ssh,
    "k8s": K8s,
    "core_k8s": CoreK8s,
    "devops_k8s": DevopsK8s,
    "devops_gravity": DevopsGravity,
}


def known() -> dict[str, type[Installer]]:
    """All installers by name: ours, those of the entry points ``devenv.installers``, and registered ones."""
    found = dict(BUILT_IN)
    for entry in entries.installed(GROUP):
        kind = entry.load()
        if not (isinstance(kind, type) and issubclass(kind, Installer)):
            raise TypeError(f"entry point {entry.value} of {GROUP} is no Installer")
        found[entry.name] = kind
    return found | _registered


def register(name: str, kind: type[Installer]) -> None:
    """Make an installer known by ``name`` without an entry point, such as one of a project's conftest.py."""
    _registered[name] = kind


def with_needs(names: Iterable[str], catalogue: Mapping[str, type[Installer]]) -> list[str]:
    """``names`` and all that they need, each behind what it needs. Raises LookupError for one that is not known,
    ValueError for a circle.
    """
    graph: dict[str, Sequence[str]] = {}
    open_ = list(names)
    while open_:
        name = open_.pop()
        if name in graph:
            continue
        if name not in catalogue:
            raise LookupError(name)
        graph[name] = tuple(catalogue[name].needs)
        open_ += graph[name]
    try:
        return list(graphlib.TopologicalSorter({key: graph[key] for key in sorted(graph)}).static_order())
    except graphlib.CycleError as error:
        raise ValueError(f"installers need each other: {' -> '.join(error.args[1])}") from None


def engine_of(name: str, catalogue: Mapping[str, type[Installer]]) -> str:
    """Engine that makes the cluster of the installer ``name``: its own, or that of the one it needs. Empty: none."""
    engines = {catalogue[one].engine for one in with_needs([name], catalogue)} - {""}
    if len(engines) > 1:
        raise ValueError(f"installer {name} needs several engines: {', '.join(sorted(engines))}")
    return next(iter(engines), "")


def is_built(engine: str) -> bool:
    """Whether this version has the engine."""
    return (paths.CONFIGS / "engines" / f"{engine}.yml").is_file()


def profile_of(names: Iterable[str], catalogue: Mapping[str, type[Installer]]) -> dict[str, Any]:
    """Keys of a profile that the installers want together, two levels deep."""
    found: dict[str, Any] = {}
    for name in with_needs(names, catalogue):
        for key, value in catalogue[name].profile.items():
            found[key] = {**found.get(key, {}), **value} if isinstance(value, Mapping) else value
    return found
