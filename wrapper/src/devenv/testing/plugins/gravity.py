"""The cluster plugin Gravity."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from devenv.testing.errors import NotAvailable, TestingError
from devenv.testing.installers import catalogue as installers

if TYPE_CHECKING:
    from devenv.testing.objects import Cluster


class Gravity:
    """Refuses by name while this version has no engine of that name."""

    def __init__(self, cluster: Cluster) -> None:
        if not installers.is_built("gravity"):
            raise NotAvailable(f"{cluster.name}: needs engine gravity, not built yet")
        self._cluster = cluster

    def exec(self, command: str) -> str:
        """stdout of ``command``, a line of a shell, inside Gravity's own container, on a master that answers."""
        return self._cluster.K8SMaster().SshDirect.execute(["gravity", "exec", "sh", "-c", command])

    def status(self) -> dict[str, Any]:
        """What `gravity status` tells of the cluster, without its token. A degraded cluster tells it, too: the answer
        counts and not its exit code. Raises TestingError when there is none.
        """
        done = self._cluster.K8SMaster().SshDirect.run(["gravity", "status", "--output=json"])
        try:
            found: dict[str, Any] = json.loads(done.stdout)["cluster"]
        except (ValueError, KeyError, TypeError):
            raise TestingError(f"{self._cluster.name}: gravity status: {done.stderr.strip()}") from None
        return {key: value for key, value in found.items() if key != "token"}

    def ping(self) -> None:
        self.status()

    def verify_functionality(self) -> None:
        """Raises TestingError unless the cluster is active and every node healthy."""
        found = self.status()
        sick = [node["advertise_ip"] for node in found.get("nodes", []) if node.get("status") != "healthy"]
        if found.get("state") != "active" or sick:
            raise TestingError(
                f"{self._cluster.name} is {found.get('state')}; not healthy: {', '.join(sick) or 'none'}"
            )
