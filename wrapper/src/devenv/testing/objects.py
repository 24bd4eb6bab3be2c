"""What the fixture ``base_config`` gives: hosts and clusters by name, with their plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from devenv.testing.allocators.allocation import Allocation, ClusterFound, HostFound
from devenv.testing.errors import NotAvailable
from devenv.testing.plugins import registry

if TYPE_CHECKING:
    from devenv.environment import Environment
    from devenv.testing.plugins.gravity import Gravity as GravityPlugin
    from devenv.testing.plugins.iptables import Iptables as IptablesPlugin
    from devenv.testing.plugins.kubectl import K8SMaster as K8SMasterPlugin
    from devenv.testing.plugins.kubectl import Kubectl as KubectlPlugin
    from devenv.testing.plugins.power import Power as PowerPlugin
    from devenv.testing.plugins.ssh import SshDirect as SshDirectPlugin
    from devenv.testing.plugins.tunnels import TunnelManager as TunnelManagerPlugin

T = TypeVar("T")


class Named(Mapping[str, T], Generic[T]):
    """Things by name, as items and as attributes: ``hosts["host1"] is hosts.host1``. In the test's order."""

    def __init__(self, items: Mapping[str, T]) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> T:
        return self._items[name]

    def __getattr__(self, name: str) -> T:
        if name.startswith("_") or name not in self._items:
            raise AttributeError(f"there is no {name}; there are {', '.join(self._items) or 'none'}")
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._items]

    def __repr__(self) -> str:
        return f"Named({', '.join(self._items)})"


class Host:
    """One host. ``alias`` is the test's name for it, ``node`` its own, ``ip`` the first of ``addresses``; plugins are
    attributes that begin with a capital.
    """

    if TYPE_CHECKING:
        Iptables: IptablesPlugin
        Power: PowerPlugin
        SshDirect: SshDirectPlugin
        TunnelManager: TunnelManagerPlugin

    def __init__(self, found: HostFound, environment: str = "") -> None:
        self.alias = self.name = found.name
        self.node = found.node
        self.addresses = tuple(found.addresses)
        self.ip = found.addresses[0] if found.addresses else ""
        self.user = found.user
        self.port = found.port
        self.key_file_path = found.key_file
        self.cluster = found.cluster
        self.group = found.group
        self.labels = dict(found.labels)
        self.vm_id = found.vm_id
        self.resource_manager_ep = found.resource_manager_ep
        self.extra_config = dict(found.extra)
        self.environment_name = environment
        self.found = found
        self.plugins = registry.Plugins(self, registry.HOST)

    def __getattr__(self, name: str) -> Any:
        return _plugin(self, name)

    def clear_plugins(self) -> None:
        """Close and forget all plugins that were used."""
        self.plugins.clear()

    def __repr__(self) -> str:
        return f"Host({self.name!r}, {self.ip!r})"


class Cluster:
    """One cluster. ``hosts`` are those of ``base_config`` themselves; ``masters`` names its control plane nodes."""

    if TYPE_CHECKING:
        Gravity: GravityPlugin
        K8SMaster: K8SMasterPlugin
        Kubectl: KubectlPlugin

    def __init__(self, found: ClusterFound, hosts: Mapping[str, Host]) -> None:
        self.name = found.name
        self.installer = found.installer
        self.hosts: Named[Host] = Named({name: hosts[name] for name in found.hosts})
        self.masters = tuple(found.masters)
        self.kubeconfig = Path(found.kubeconfig) if found.kubeconfig else None
        self.found = found
        self.plugins = registry.Plugins(self, registry.CLUSTER)

    def __getattr__(self, name: str) -> Any:
        return _plugin(self, name)

    def clear_plugins(self) -> None:
        """Close and forget all plugins that were used."""
        self.plugins.clear()

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, {', '.join(self.hosts)})"


def _plugin(owner: Host | Cluster, name: str) -> Any:
    # Python asks objects for much that begins with a small letter or an underscore.
    if not name[:1].isupper():
        raise AttributeError(f"{type(owner).__name__} has no attribute {name}")
    return owner.plugins.get(name)


class BaseConfig:
    """``hosts`` and ``clusters`` of one test, by the names that the test gave them. ``environment`` is the name of the
    devenv environment that they are, or empty.
    """

    def __init__(self, allocation: Allocation) -> None:
        self.environment_name = allocation.environment
        hosts = {found.name: Host(found, allocation.environment) for found in allocation.hosts}
        self.hosts: Named[Host] = Named(hosts)
        self.clusters: Named[Cluster] = Named({found.name: Cluster(found, hosts) for found in allocation.clusters})
        self.allocation = allocation

    @property
    def environment(self) -> Environment:
        """The environment as an object of the Python API. Raises NotAvailable when the machines are no environment of
        devenv.
        """
        from devenv.environment import Environment

        if not self.environment_name:
            raise NotAvailable("the machines are no environment of devenv")
        return Environment.open(self.environment_name)

    def clear_plugins(self) -> None:
        """Close and forget all plugins of all hosts and clusters."""
        for one in self._all():
            one.clear_plugins()

    def reset_state(self) -> None:
        """Undo what tests did through plugins: their ``reset_state``."""
        for one in self._all():
            one.plugins.reset()

    def _all(self) -> list[Host | Cluster]:
        return [*self.clusters.values(), *self.hosts.values()]

    def __repr__(self) -> str:
        return f"BaseConfig(hosts={list(self.hosts)}, clusters={list(self.clusters)})"
