"""Installers: what a test requests on a host or a cluster (docs/installers.md).

An installer maps to an engine of the profile or to a role, and has no cluster logic of its own. Its stages, in this
order: ``session`` (in each test process that uses the environment), ``session_install`` (once per environment, with
--install only; its method is ``install``), ``runtest_setup`` and ``setup`` (before a test; before and after the
cleaning between tests), ``teardown``.
"""

from __future__ import annotations

import functools
import graphlib
import inspect
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines

from devenv.testing.errors import NotAvailable
from devenv.testing.registry import Registry

if TYPE_CHECKING:
    import pytest

    from devenv.testing.objects import BaseConfig, Cluster, Host

# For a cluster whose test names none.
DEFAULT = "k8s"


# Method of each stage.
METHODS = {
    "session": "session",
    "session_install": "install",
    "runtest_setup": "runtest_setup",
    "setup": "setup",
    "teardown": "teardown",
}
# Arguments of these methods besides the target: those of today, and those of older installers.
_ARGUMENTS = (("base_config", "request"), ("request",))
# Annotation of the default StorageClass.
_DEFAULT = "storageclass.kubernetes.io/is-default-class"


Method = TypeVar("Method", bound=Callable[..., None])


def _stage(function: Method) -> Method:
    """Return the method of a stage, callable with target, base_config and request, and without base_config.

    Methods of older installers take only target and request, and call those of their base class in this way. Raises
    TypeError for a method with other arguments.
    """
    signature = inspect.signature(function)
    if any(argument.kind is argument.VAR_POSITIONAL for argument in signature.parameters.values()):
        return function
    names = next((names for names in _ARGUMENTS if _accepts(signature, names)), None)
    if names is None:
        wanted, given = f"{function.__name__}(self, target, base_config, request)", ", ".join(signature.parameters)
        raise TypeError(f"installer method {function.__qualname__}: must be {wanted}, but has ({given})")

    @functools.wraps(function)
    def method(self: Installer, target: Any, *others: Any, **named: Any) -> None:
        values = {**dict(zip(("request", "base_config"), reversed(others), strict=False)), **named}
        # For a base class that an older method calls.
        self._base_config = values.setdefault("base_config", self._base_config)
        function(self, target, **{name: values[name] for name in names})

    return cast("Method", method)


def _accepts(signature: inspect.Signature, names: Sequence[str]) -> bool:
    """Return whether a method can be called with a target and these arguments."""
    try:
        signature.bind(None, None, **dict.fromkeys(names))
    except TypeError:
        return False
    return True


class Installer:
    """Base of all installers; its methods do nothing unless they are overridden.

    ``on``: "cluster" or "host", the `Cluster` or `Host` that is the target of the methods. ``needs``: installers that
    run first; if a cluster's installer needs one for hosts, that runs on each host of the cluster. ``engine`` creates
    the cluster. ``profile``: keys for the environment's profile, such as ``{"storage": {"enabled": True}}``. ``role``,
    a full name, runs with ``variables`` on the target's hosts in the stage session_install.
    """

    on: ClassVar[str] = "cluster"
    needs: ClassVar[Sequence[str]] = ()
    engine: ClassVar[str] = ""
    profile: ClassVar[Mapping[str, Any]] = {}
    role: ClassVar[str] = ""
    variables: ClassVar[Mapping[str, Any]] = {}

    _base_config: Any = None

    def __init_subclass__(cls) -> None:
        """Accept the stage's name ``session_install`` for ``install``, and methods without ``base_config``."""
        super().__init_subclass__()
        for stage, name in METHODS.items():
            function = cls.__dict__.get(name, cls.__dict__.get(stage))
            if inspect.isfunction(function):
                method = _stage(function)
                setattr(cls, name, method)
                setattr(cls, stage, method)

    def needed(self, name: str) -> Any:
        """Return an installer that this one needs, to call its own functions. Raises LookupError for another one."""
        if name not in with_needs(self.needs, INSTALLERS.all()):
            raise LookupError(f"{type(self).__name__} does not need {name}; it needs {', '.join(self.needs) or 'none'}")
        return INSTALLERS.get(name)()

    @_stage
    def session(self, target: Any, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
        return

    @_stage
    def install(self, target: Any, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
        if self.role:
            hosts = [target] if self.on == "host" else list(target.hosts.values())
            run_role(self.role, hosts, self.variables)

    # The older name.
    session_install: ClassVar[Any] = install

    @_stage
    def runtest_setup(self, target: Any, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
        return

    @_stage
    def setup(self, target: Any, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
        return

    @_stage
    def teardown(self, target: Any, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
        return


class Ssh(Installer):
    """A host that answers over ssh."""

    on = "host"

    def session(self, target: Host, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
        target.SshDirect.ping()


class K8s(Installer):
    """Plain Kubernetes."""

    needs: ClassVar[Sequence[str]] = ("ssh",)
    engine = engines.of_installer("k8s")

    def session(self, target: Cluster, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
        target.Kubectl.ping()


class DevopsK8s(Installer):
    """Kubernetes with what applications build on: a default StorageClass, and metrics of nodes and pods."""

    needs: ClassVar[Sequence[str]] = ("k8s",)
    profile: ClassVar[Mapping[str, Any]] = {"storage": {"enabled": True}, "metrics": {"enabled": True}}

    def default_storage_class(self, cluster: Cluster) -> str:
        """Return the name of the default StorageClass. Raises NotAvailable."""
        from kubernetes import client

        api = client.StorageV1Api(cluster.Kubectl.client())
        classes: list[Any] = api.list_storage_class(_request_timeout=60).items
        names = [item.metadata.name for item in classes if (item.metadata.annotations or {}).get(_DEFAULT) == "true"]
        if not names:
            raise NotAvailable(f"{cluster.name} has no default StorageClass")
        return str(names[0])

    def wait_for_metrics(self, cluster: Cluster, timeout: float = 180) -> None:
        """Wait until the cluster's API has metrics. Raises CommandTimeout."""
        api = "apiregistration.k8s.io/v1"
        cluster.Kubectl.wait("APIService", "v1beta1.metrics.k8s.io", "Available", api_version=api, timeout=timeout)


class CoreK8s(Installer):
    """devops_k8s, ready to use: its install stage ends when storage and metrics answer."""

    needs: ClassVar[Sequence[str]] = ("devops_k8s",)

    def install(self, target: Cluster, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
        devops = self.needed("devops_k8s")
        devops.default_storage_class(target)
        devops.wait_for_metrics(target)


class DevopsGravity(K8s):
    """A Gravity cluster."""

    engine = engines.of_installer("devops_gravity")


Catalogue = Mapping[str, type[Installer]]

INSTALLERS: Registry[type[Installer]] = Registry(
    "devenv.installers",
    {
        "ssh": Ssh,
        "k8s": K8s,
        "core_k8s": CoreK8s,
        "devops_k8s": DevopsK8s,
        "devops_gravity": DevopsGravity,
        "docker": "devenv.testing.installers.docker:Docker",
        "devops_proxy_container": "devenv.testing.installers.docker:DevopsProxyContainer",
        "devops_docker": "devenv.testing.installers.docker:DevopsDocker",
        "core_docker": "devenv.testing.installers.docker:CoreDocker",
    },
    lambda extension: isinstance(extension, type) and issubclass(extension, Installer),
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
