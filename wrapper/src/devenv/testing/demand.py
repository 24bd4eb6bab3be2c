"""What a test asks for: hosts and clusters, checked and frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NODE_TYPE_LABEL = "devenv.lab/node-type"


class DemandError(ValueError):
    """``problems`` has one line for everything that is wrong with a demand."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class HostDemand:
    """One host. ``role``: master, worker, or empty for a host of no cluster; ``node``: keys of a profile's node,
    labels and taints included; ``remote``: all that the test said of it, for a remote allocator.
    """

    name: str
    role: str = ""
    installer: str = ""
    base_image: str = ""
    node: Mapping[str, Any] = field(default_factory=dict)
    remote: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterDemand:
    """One cluster of hosts, masters first as the test or its template names them."""

    name: str
    installer: str
    hosts: tuple[str, ...]
    template: str = ""


@dataclass(frozen=True)
class Demand:
    """All that one test asks for. ``engine``: what makes its clusters, empty without any."""

    hosts: tuple[HostDemand, ...]
    clusters: tuple[ClusterDemand, ...] = ()
    engine: str = ""
    profile: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    timeout: float = 0

    @property
    def digest(self) -> str:
        """Equal for demands that one environment can serve, whatever their scope and limit."""
        return hashlib.sha256(json.dumps(self.data(), sort_keys=True).encode()).hexdigest()[:12]

    def data(self) -> dict[str, Any]:
        """The demand as plain data, in the order in which the test names things."""
        return {
            "hosts": [
                {
                    "name": host.name, "role": host.role, "installer": host.installer, "base_image": host.base_image,
                    "node": dict(host.node), "remote": dict(host.remote),
                }
                for host in self.hosts
            ],
            "clusters": [
                {"name": one.name, "installer": one.installer, "hosts": list(one.hosts), "template": one.template}
                for one in self.clusters
            ],
            "engine": self.engine,
            "profile": dict(self.profile),
        }  # fmt: skip

    def host(self, name: str) -> HostDemand:
        return next(host for host in self.hosts if host.name == name)

    def cluster_of(self, host: str) -> ClusterDemand | None:
        return next((one for one in self.clusters if host in one.hosts), None)
