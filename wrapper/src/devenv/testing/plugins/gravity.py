"""The cluster plugin Gravity."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from devenv.testing.errors import TestingError

if TYPE_CHECKING:
    from devenv.testing.objects import Cluster


class Gravity:
    """The program ``gravity`` of the cluster's nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def exec(self, command: str) -> str:
        """Return stdout of a shell command inside Gravity's own container, on a master with a ready API server."""
        return self._cluster.K8SMaster().SshDirect.execute(["gravity", "exec", "sh", "-c", command])

    def status(self) -> dict[str, Any]:
        """Return the output of `gravity status` about the cluster, without its token.

        A degraded cluster has a status and an exit code other than 0. Raises TestingError if there is no status.
        """
        done = self._cluster.K8SMaster().SshDirect.run(["gravity", "status", "--output=json"])
        try:
            status: dict[str, Any] = json.loads(done.stdout)["cluster"]
        except (ValueError, KeyError, TypeError):
            raise TestingError(f"{self._cluster.name}: gravity status: {done.stderr.strip()}") from None
        return {key: value for key, value in status.items() if key != "token"}

    def ping(self) -> None:
        self.status()

    def verify_functionality(self) -> None:
        """Raise TestingError unless the cluster is active and every node healthy."""
        status = self.status()
        unhealthy = [node["advertise_ip"] for node in status.get("nodes", []) if node.get("status") != "healthy"]
        if status.get("state") != "active" or unhealthy:
            nodes = ", ".join(unhealthy) or "none"
            raise TestingError(f"{self._cluster.name} is {status.get('state')}; not healthy: {nodes}")
