"""The Python API: one cluster of an environment (docs/use-in-tests.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devenv import operations
from devenv.environments import access
from devenv.runs.runner import Options
from devenv.runs.supervision import Watcher

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


@dataclass(frozen=True)
class Cluster:
    """A cluster of the environment named ``environment``."""

    environment: str
    name: str

    @property
    def kubeconfig(self) -> Path:
        """Its kubeconfig. Raises NotFound if there is none yet."""
        return access.kubeconfig(self.environment, self.name)

    @property
    def context(self) -> str:
        """The name of its context in kubeconfigs."""
        return access.context(self.environment, self.name)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables for programs that use this cluster: what `devenv env --cluster` prints."""
        return access.variables(self.environment, self.name)

    def kubernetes(self) -> ApiClient:
        """Return a client of the package ``kubernetes``, configured from this kubeconfig only. Close it, or use
        ``with``.
        """
        from devenv.environments import api

        return api.client_of(self.kubeconfig)

    def status(self) -> dict[str, Any]:
        """Return what `devenv status --cluster --json` prints."""
        from devenv.environments import status

        return status.status(self.environment, self.name)

    def validate(self, *, timeout: float | None = None, watcher: Watcher | None = None) -> Sequence[Mapping[str, Any]]:
        """Run all checks of this cluster, as `Environment.validate`."""
        options = Options(timeout=timeout, command="Cluster.validate", watcher=watcher)
        return operations.validate(self.environment, options, cluster=self.name).checks

    def save(self, snapshot: str, *, force: bool = False, watcher: Watcher | None = None) -> None:
        """Save the state of this cluster and its nodes as ``snapshot``."""
        options = Options(command="Cluster.save", watcher=watcher)
        operations.save_snapshot(self.environment, snapshot, options, force=force, cluster=self.name)
