"""Installers and base images: what a test requests on a host or a cluster (docs/installers.md).

An installer maps to an engine of the profile or to a role, and has no cluster logic of its own. Its stages, in this
order: ``session`` (in each test process that uses the environment), ``session_install`` (once per environment, with
--install only), ``runtest_setup`` and ``setup`` (before a test; before and after the cleaning between tests),
``teardown``.
"""

from __future__ import annotations

import graphlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines

from devenv.testing.errors import NotAvailable
from devenv.testing.registry import Registry

if TYPE_CHECKING:
    import pytest

    from devenv.testing.objects import Cluster, Host

# For a cluster whose test names none.
DEFAULT = "k8s"


class Installer:
    """Base of all installers; its methods do nothing unless they are overridden.

    ``on``: "cluster" or "host", the target of the methods. ``needs``: installers that run first; if a cluster's
    installer needs one for hosts, that runs on each host of the cluster. ``engine`` creates the cluster. ``profile``:
    keys for the environment's profile, such as ``{"storage": {"enabled": True}}``. ``role``, a full name, runs with
    ``variables`` on the target's hosts in the stage session_install.
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
            hosts = [target] if self.on == "host" else list(target.hosts.values())
            run_role(self.role, hosts, self.variables)

    def runtest_setup(self, target: Any, request: pytest.FixtureRequest) -> None:
        return

    def setup(self, target: Any, request: pytest.FixtureRequest) -> None:
        return

    def teardown(self, target: Any, request: pytest.FixtureRequest) -> None:
        return


class Ssh(Installer):
    """A host that answers over ssh."""

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
    """core_k8s with metrics of nodes and pods."""

    needs = ("core_k8s",)
    profile: ClassVar[Mapping[str, Any]] = {"metrics": {"enabled": True}}


class DevopsGravity(K8s):
    """A Gravity cluster."""

    engine = engines.of_installer("devops_gravity")


@dataclass(frozen=True)
class BaseImage:
    """A name for the one node image (Debian with systemd and ssh), so that tests written for other labs keep their
    words. ``node``: keys of a profile's node, which the test's own keys override.
    """

    description: str
    node: Mapping[str, Any] = field(default_factory=dict)


Catalogue = Mapping[str, type[Installer]]

INSTALLERS: Registry[type[Installer]] = Registry(
    "devenv.installers",
    {
        "ssh": Ssh,
        "k8s": K8s,
        "core_k8s": CoreK8s,
        "devops_k8s": DevopsK8s,
        "devops_gravity": DevopsGravity,
    },
    lambda extension: isinstance(extension, type) and issubclass(extension, Installer),
)
IMAGES: Registry[BaseImage] = Registry(
    "devenv.base_images",
    {
        "k8s_base": BaseImage("the node image, for a Kubernetes cluster"),
        "gravity_base": BaseImage("the node image, for a Gravity cluster", {"memory": "4GiB"}),
        "gravity_infra_230": BaseImage("the node image, for a Gravity cluster", {"memory": "4GiB"}),
        "automation_infra_1.0": BaseImage("the plain node image, with or without a cluster"),
        "ubuntu_clean": BaseImage("the plain node image (Debian), nothing prepared"),
    },
    lambda extension: isinstance(extension, BaseImage),
)


def register_installer(name: str, installer: type[Installer]) -> None:
    """Register an installer without an entry point, for example in a conftest.py."""
    INSTALLERS.register(name, installer)


def with_needs(names: Iterable[str], catalogue: Catalogue) -> list[str]:
    """Return ``names`` and everything they need, needs first. Raises LookupError for an unknown installer, ValueError
    for a cycle.
    """
    graph: dict[str, Sequence[str]] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in graph:
            continue
        if name not in catalogue:
            raise LookupError(name)
        graph[name] = tuple(catalogue[name].needs)
        waiting += graph[name]
    try:
        return list(graphlib.TopologicalSorter({key: graph[key] for key in sorted(graph)}).static_order())
    except graphlib.CycleError as error:
        raise ValueError(f"installers need each other: {' -> '.join(error.args[1])}") from None


def engine_of(name: str, catalogue: Catalogue) -> str:
    """Return the engine of an installer: its own or that of one it needs, empty for none. Raises ValueError."""
    candidates = {catalogue[needed].engine for needed in with_needs([name], catalogue)} - {""}
    if len(candidates) > 1:
        raise ValueError(f"installer {name} needs several engines: {', '.join(sorted(candidates))}")
    return next(iter(candidates), "")


def profile_of(names: Iterable[str], catalogue: Catalogue) -> dict[str, Any]:
    """Return the profile keys of the installers and of what they need, merged two levels deep."""
    merged: dict[str, Any] = {}
    for name in with_needs(names, catalogue):
        for key, value in catalogue[name].profile.items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, Mapping) else value
    return merged


def playbook(role: str, nodes: Sequence[str], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a playbook that runs the role on the nodes."""
    task = {"name": f"Run {role}", "ansible.builtin.include_role": {"name": role}, "vars": dict(variables)}
    return [{"name": f"Installer | Run {role}", "hosts": list(nodes), "gather_facts": True, "tasks": [task]}]


def run_role(role: str, hosts: Sequence[Host], variables: Mapping[str, Any]) -> None:
    """Run a role on hosts of one devenv environment, with its inventory. Raises devenv.StageFailed, and NotAvailable
    for other hosts.
    """
    from devenv.runs.playbook import run
    from devenv.runs.runner import Options

    names = {host.environment_name for host in hosts}
    if names == {""} or len(names) != 1:
        raise NotAvailable(f"role {role}: needs an inventory, but the hosts do not belong to one devenv environment")
    with tempfile.TemporaryDirectory(prefix="devenv-role-") as directory:
        path = Path(directory, "role.yml")
        path.write_text(yaml.safe_dump(playbook(role, [host.node for host in hosts], variables), sort_keys=False))
        run(str(path), names.pop(), {}, Options(command=f"installer {role}"))
