"""Machines that were found for a demand, as plain data: it travels between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.command import Connection


@dataclass(frozen=True)
class HostFound:
    """A machine and how ssh gets there. ``name`` is the test's, ``node`` its own; ``options`` are ssh's own
    words without the destination; ``password_file`` holds a password (0600), empty for a key.
    """

    name: str
    node: str
    addresses: Sequence[str]
    user: str = "root"
    port: int = 22
    key_file: str = ""
    password_file: str = ""
    options: Sequence[str] = ()
    cluster: str = ""
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    vm_id: str = ""
    resource_manager_ep: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def connection(self) -> Connection:
        return Connection(self.addresses[0], self.user, self.port, self.key_file, tuple(self.options))


@dataclass(frozen=True)
class ClusterFound:
    """A cluster. ``name`` is the test's, ``profile_name`` that of the environment's profile; ``kubeconfig`` a
    path, empty without one.
    """

    name: str
    profile_name: str
    installer: str
    hosts: Sequence[str]
    masters: Sequence[str]
    kubeconfig: str = ""


@dataclass(frozen=True)
class Allocation:
    """All machines of a demand. ``environment``: name of the devenv environment, or empty; ``provider`` is what made
    the machines; ``key`` names the allocation among those of this run.
    """

    key: str
    environment: str
    provider: str
    hosts: Sequence[HostFound]
    clusters: Sequence[ClusterFound]

    def data(self) -> dict[str, Any]:
        return asdict(self)


def from_data(data: Mapping[str, Any]) -> Allocation:
    """The reverse of `Allocation.data`."""
    return Allocation(
        **{
            **data,
            "hosts": [HostFound(**host) for host in data["hosts"]],
            "clusters": [ClusterFound(**cluster) for cluster in data["clusters"]],
        }
    )
