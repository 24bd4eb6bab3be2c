"""Values of the fixture ``base_config``, which allocators create: hosts and clusters by name, with their plugins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.command import Connection

from devenv.testing.errors import NotAvailable
from devenv.testing.plugins import lifecycle
from devenv.testing.registry import CLUSTER, HOST, Plugin, Plugins, Registry

if TYPE_CHECKING:
    from devenv.environment import Environment
    from devenv.testing.plugins import admin, docker, gravity, helm, iptables, k8s, kubectl, power, proxy, ssh, tunnels

T = TypeVar("T")


class Named(Mapping[str, T], Generic[T]):
    """Objects by name, as items and as attributes: ``hosts["host1"] is hosts.host1``; in the test's order. An attribute
    has ``_`` for ``-``.
    """

    def __init__(self, items: Mapping[str, T]) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> T:
        return self._items[name]

    def __getattr__(self, name: str) -> T:
        if name.startswith("_"):
            raise AttributeError(name)
        for known in (name, name.replace("_", "-")):
            if known in self._items:
                return self._items[known]
        raise AttributeError(f"'{name}' does not exist; there are {', '.join(self._items) or 'none'}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name.replace("-", "_") for name in self._items)]

    def __repr__(self) -> str:
        return f"Named({', '.join(self._items)})"


class WithPlugins:
    """Base of hosts and clusters: plugins are attributes, by their name and by its lower-case form."""

    registry: ClassVar[Registry[Plugin]]
    name: str

    @cached_property
    def plugins(self) -> Plugins:
        return Plugins(self, self.registry)

    def __getattr__(self, name: str) -> Any:
        # Python looks up many attributes that begin with an underscore.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        return self.plugins.get(name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.plugins.names()]

    def __getstate__(self) -> dict[str, Any]:
        # Plugins belong to one process.
        return {name: value for name, value in self.__dict__.items() if name != "plugins"}

    def clear_plugins(self) -> None:
        """Close and forget all plugins that were used."""
        self.plugins.clear()


@dataclass(eq=False, repr=False)
class Host(WithPlugins):
    """One host. ``name`` is the test's, ``node`` the machine's own; ``ssh_options`` are ssh's options without the
    destination; ``password_file`` contains a password (mode 0600), empty if a key is used; ``extra_config`` has other
    keys of a file of machines. ``environment_name`` is the devenv environment, or empty.
    """

    name: str
    node: str
    addresses: tuple[str, ...]
    user: str = "root"
    port: int = 22
    key_file_path: str = ""
    password_file: str = ""
    ssh_options: tuple[str, ...] = ()
    cluster: str = ""
    group: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    vm_id: str = ""
    resource_manager_ep: str = ""
    extra_config: dict[str, Any] = field(default_factory=dict)
    environment_name: str = ""

    registry = HOST
    if TYPE_CHECKING:
        Admin: ClassVar[admin.Admin]
        Docker: ClassVar[docker.Docker]
        DockerCompose: ClassVar[docker.DockerCompose]
        Helm: ClassVar[helm.HostHelm]
        Iptables: ClassVar[iptables.Iptables]
        K8s: ClassVar[k8s.K8s]
        Power: ClassVar[power.Power]
        ProxyContainer: ClassVar[proxy.ProxyContainer]
        SSH: ClassVar[proxy.SSH]
        SshDirect: ClassVar[ssh.SshDirect]
        TunnelManager: ClassVar[tunnels.TunnelManager]

    @property
    def alias(self) -> str:
        return self.name

    @property
    def ip(self) -> str:
        """The first address."""
        return self.addresses[0]

    @property
    def connection(self) -> Connection:
        return Connection(self.ip, self.user, self.port, self.key_file_path, self.ssh_options)

    def __repr__(self) -> str:
        return f"Host({self.name!r}, {self.ip!r})"


@dataclass(eq=False, repr=False)
class Cluster(WithPlugins):
    """One cluster. ``hosts`` are the objects of ``base_config.hosts``; ``masters`` names its control plane nodes."""

    name: str
    installer: str
    hosts: Named[Host]
    masters: tuple[str, ...]
    kubeconfig: Path | None = None

    registry = CLUSTER
    if TYPE_CHECKING:
        Gravity: ClassVar[gravity.Gravity]
        Helm: ClassVar[helm.Helm]
        K8SMaster: ClassVar[kubectl.K8SMaster]
        Kubectl: ClassVar[kubectl.Kubectl]
        ProxyDaemonSet: ClassVar[proxy.ProxyDaemonSet]

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, {', '.join(self.hosts)})"


class BaseConfig:
    """``hosts`` and ``clusters`` of one test, by the test's names. ``environment_name`` is empty if the machines do
    not belong to a devenv environment.
    """

    def __init__(self, environment_name: str, hosts: Iterable[Host], clusters: Iterable[Cluster]) -> None:
        self.environment_name = environment_name
        self.hosts: Named[Host] = Named({host.name: host for host in hosts})
        self.clusters: Named[Cluster] = Named({cluster.name: cluster for cluster in clusters})

    @property
    def environment(self) -> Environment:
        """The environment as an object of the Python API. Raises NotAvailable for machines of another origin."""
        from devenv.environment import Environment

        if not self.environment_name:
            raise NotAvailable("the machines do not belong to a devenv environment")
        return Environment.open(self.environment_name)

    def has_same_machines(self, other: BaseConfig) -> bool:
        """Return whether hosts and connections are those of ``other``."""
        mine, others = ([host.connection for host in config.hosts.values()] for config in (self, other))
        return mine == others

    def clear_plugins(self) -> None:
        """Close and forget all plugins of all hosts and clusters."""
        for owner in self._owners():
            owner.clear_plugins()

    def reset_state(self) -> None:
        """Undo what tests did through plugins: their ``reset_state``."""
        lifecycle.reset(self)

    def _owners(self) -> list[Host | Cluster]:
        return [*self.clusters.values(), *self.hosts.values()]

    def __repr__(self) -> str:
        return f"BaseConfig(hosts={list(self.hosts)}, clusters={list(self.clusters)})"
