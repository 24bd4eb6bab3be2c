"""The cluster plugin Gravity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devenv.testing import installers
from devenv.testing.errors import NotAvailable

if TYPE_CHECKING:
    from devenv.testing.objects import Cluster


class Gravity:
    """Refuses by name while this version has no engine of that name."""

    def __init__(self, cluster: Cluster) -> None:
        if not installers.is_built("gravity"):
            raise NotAvailable(f"{cluster.name}: needs engine gravity, not built yet")
        self._cluster = cluster

    def exec(self, command: str) -> str:
        """stdout of ``command`` inside Gravity's own container, on a master that answers."""
        return self._cluster.K8SMaster().SshDirect.execute(["gravity", "exec", "sh", "-c", command])
