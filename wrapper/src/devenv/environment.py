"""The Python API: an environment as an object (docs/use-in-tests.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv import operations
from devenv.cluster import Cluster
from devenv.environments import access, names, target
from devenv.runs import playbook
from devenv.runs.runner import Options
from devenv.runs.supervision import Watcher

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


@dataclass(frozen=True)
class Host:
    """A node. ``address`` is the first of ``addresses`` (one per address family, in the profile's order, without a
    prefix length); ``variables`` are the host's variables in the inventory."""

    name: str
    address: str
    addresses: tuple[str, ...]
    group: str
    cluster: str
    labels: Mapping[str, str]
    variables: Mapping[str, Any] = field(repr=False)


class Environment:
    """An environment: `Environment.up` creates or converges one, `Environment.open` returns an existing one.

    As a context manager, it removes the environment at the end of the block, even after an exception; ``keep=True``
    keeps it.
    """

    def __init__(self, name: str, *, keep: bool = False, changed: int = 0) -> None:
        self.name = name
        self.keep = keep
        self.changed = changed

    @classmethod
    def up(
        cls,
        profile: str | os.PathLike[str] | None = None,
        name: str | None = None,
        *,
        overrides: Mapping[str, Any] | None = None,
        snapshot: str | None = None,
        ttl: str | None = None,
        extra_vars: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_failure: str = "keep",
        artifacts: str | os.PathLike[str] | None = None,
        ansible_arguments: Sequence[str] = (),
        ansible_env: Mapping[str, str] | None = None,
        full: bool = False,
        recreate: bool = False,
        keep: bool = False,
        watcher: Watcher | None = None,
    ) -> Self:
        """Create an environment, or converge an existing one to ``profile``; a no-op if it is converged.

        ``profile``: a name or the path of a file; without it, the environment ``name`` keeps its stored profile.
        ``overrides``: keys of the profile by dotted path, e.g. ``{"nodes.worker-0.memory": "4GiB"}``. ``timeout`` in
        seconds for the whole run. ``snapshot``: name of a snapshot to create a new environment from. ``ttl``: let it
        expire after this time (``2h``), see `devenv prune --expired`. ``on_failure``: "keep", or "destroy" to remove an
        environment that this call created. ``ansible_env``: variables of Ansible for the run, which ignores those of
        this process. ``full`` runs every stage even if nothing has changed; ``recreate`` creates clusters again, empty,
        whose data are gone. ``changed`` of the returned object counts changed tasks. Raises errors.Error (see its
        subclasses) and errors.Interrupted.
        """
        profile_name = os.fspath(profile) if profile is not None else None
        goal = target.resolve(profile_name, name, overrides, snapshot=snapshot, ttl=ttl)
        options = Options(
            extra=(extra_vars,) if extra_vars else (),
            timeout=timeout,
            artifacts=Path(artifacts) if artifacts else None,
            arguments=ansible_arguments,
            ansible_env=ansible_env or {},
            full=full,
            command="Environment.up",
            watcher=watcher,
        )
        result = operations.up(goal, options, on_failure=on_failure, recreate=recreate)
        return cls(goal.name, keep=keep, changed=result.changed)

    @classmethod
    def open(cls, name: str | None = None, *, keep: bool = True) -> Self:
        """Return the existing environment ``name`` (else ``$DEVENV_NAME``, else the only one). Raises NotFound,
        UsageError.

        A ``with`` block keeps it unless ``keep=False``: an environment that existed before the tests should exist
        after them.
        """
        return cls(names.existing(name), keep=keep)

    @property
    def state(self) -> Path:
        """The state directory."""
        return paths.environment(self.name)

    @property
    def inventory_path(self) -> Path:
        """A static inventory for plain ``ansible -i``. Raises NotFound if there are no nodes yet."""
        return access.inventory_path(self.name)

    @property
    def inventory(self) -> dict[str, Any]:
        """The inventory as data: ``{"all": {"vars": ..., "hosts": ..., "children": ...}}``."""
        return access.inventory(self.name)

    @property
    def hosts(self) -> dict[str, Host]:
        """The nodes by name, in the profile's order."""
        return {name: _host(name, variables) for name, variables in access.hosts(self.name).items()}

    @property
    def clusters(self) -> dict[str, Cluster]:
        """The clusters by name, in the profile's order."""
        return {name: Cluster(self.name, name) for name in access.clusters(self.name)}

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of the cluster ``main``, or else of the only one. Raises NotFound if there is none yet,
        UsageError if there are several.
        """
        return access.kubeconfig(self.name)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables for programs that use the environment: what `devenv env` prints. While there is no
        cluster, KUBECONFIG names a file that does not exist. Raises UsageError if there are several clusters and none
        is ``main``.
        """
        return access.variables(self.name)

    def kubernetes(self) -> ApiClient:
        """Return a client of the package ``kubernetes``, configured from this kubeconfig only. Close it, or use
        ``with``.
        """
        from devenv.environments import api

        return api.client_of(self.kubeconfig)

    def status(self) -> dict[str, Any]:
        """Return what `devenv status --json` prints."""
        from devenv.environments import status as environment_status

        return environment_status.status(self.name)

    def validate(self, *, timeout: float | None = None, watcher: Watcher | None = None) -> Sequence[Mapping[str, Any]]:
        """Run all checks, with real pods; return one row per check: ``{cluster, name, ok, seconds, seen, warnings}``.

        Raises StageFailed with the failed checks; its ``checks`` has the rows.
        """
        options = Options(timeout=timeout, command="Environment.validate", watcher=watcher)
        return operations.validate(self.name, options).checks

    def gather(
        self,
        output: str | os.PathLike[str] = "",
        *,
        timeout: float | None = None,
        watcher: Watcher | None = None,
    ) -> Path:
        """Collect logs and state of nodes, clusters and this host into one archive; return its path.

        ``output``: a .tar.gz file or a directory, by default the working directory. The archive's index lists nodes
        that do not answer.
        """
        options = Options(timeout=timeout, command="Environment.gather", watcher=watcher)
        return operations.gather(self.name, os.fspath(output), options).path

    def upgrade(self, kubernetes: str, *, timeout: float | None = None, watcher: Watcher | None = None) -> None:
        """Upgrade to another Kubernetes version, node by node; ``timeout`` in seconds for the whole run.

        Raises Error for the current version, an older one, or one that is not the next minor version.
        """
        options = Options(timeout=timeout, command="Environment.upgrade", watcher=watcher)
        operations.upgrade(self.name, kubernetes, options)

    def stop(self, watcher: Watcher | None = None) -> None:
        """Shut down the nodes; `start` restarts them."""
        playbook.run("stop", self.name, {}, Options(command="Environment.stop", watcher=watcher))

    def start(self, watcher: Watcher | None = None) -> None:
        """Start stopped nodes and wait until the cluster is ready."""
        playbook.run("start", self.name, {}, Options(command="Environment.start", watcher=watcher))

    def save(self, snapshot: str, *, force: bool = False, watcher: Watcher | None = None) -> None:
        """Save the state of the environment as ``snapshot``."""
        options = Options(command="Environment.save", watcher=watcher)
        operations.save_snapshot(self.name, snapshot, options, force=force)

    def down(self, watcher: Watcher | None = None) -> None:
        """Remove the environment; a no-op if it does not exist."""
        operations.down(self.name, Options(command="Environment.down", watcher=watcher))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.keep:
            self.down()

    def __repr__(self) -> str:
        return f"Environment({self.name!r})"


def _host(name: str, variables: Mapping[str, Any]) -> Host:
    addresses = tuple(str(address) for address in variables.get("devenv_addresses") or ())
    return Host(
        name=name,
        address=str(variables.get("ansible_host") or (addresses[0] if addresses else "")),
        addresses=addresses,
        group=str(variables.get("devenv_group", "")),
        cluster=str(variables.get("devenv_cluster", "")),
        labels=dict(variables.get("devenv_labels") or {}),
        variables=variables,
    )
