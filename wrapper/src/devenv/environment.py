"""The Python API: an environment as an object. docs/use-in-tests.md shows it at work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv import operations
from devenv.environments import access, names, target
from devenv.runs import playbook
from devenv.runs.playbook import Options
from devenv.runs.supervision import Watcher

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


@dataclass(frozen=True)
class Host:
    """A node. ``address`` is the first of ``addresses`` (one a family, in the profile's order; no prefix length);
    ``variables`` are its own variables of the inventory."""

    name: str
    address: str
    addresses: tuple[str, ...]
    group: str
    cluster: str
    labels: Mapping[str, str]
    variables: Mapping[str, Any] = field(repr=False)


class Environment:
    """A living environment: `Environment.up` makes one, `Environment.open` takes one that is there.

    As a context manager it takes itself down at the end of the block, whatever happened inside; ``keep=True`` leaves
    it.
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
        extra_vars: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_failure: str = "keep",
        artifacts: str | os.PathLike[str] | None = None,
        ansible_arguments: Sequence[str] = (),
        full: bool = False,
        keep: bool = False,
        watcher: Watcher | None = None,
    ) -> Self:
        """Bring an environment up, or to what ``profile`` says now; nothing happens when it is so already.

        ``profile``: a name or the path of a file; without it the environment ``name`` keeps its own. ``overrides``:
        keys of the profile by dotted path, e.g. ``{"nodes.worker-0.memory": "4GiB"}``. ``timeout`` in seconds for the
        whole. ``snapshot``: name of one to start a new environment from. ``on_failure``: "keep", or "destroy" for an
        environment that this call made. ``full`` runs every stage, also when nothing has changed. ``changed`` of what
        is returned counts changed tasks. Raises errors.Error (see errors for its kinds) and errors.Interrupted.
        """
        wanted = os.fspath(profile) if profile is not None else None
        goal = (
            target.from_snapshot(snapshot, wanted, name, overrides)
            if snapshot
            else target.resolve(wanted, name, overrides)
        )
        options = Options(
            extra=(extra_vars,) if extra_vars else (),
            timeout=timeout,
            artifacts=Path(artifacts) if artifacts else None,
            arguments=ansible_arguments,
            full=full,
            command="Environment.up",
        )
        result = operations.up(goal, options, watcher, on_failure=on_failure)
        return cls(goal.name, keep=keep, changed=result.changed)

    @classmethod
    def open(cls, name: str | None = None, *, keep: bool = True) -> Self:
        """The environment ``name`` (else ``$DEVENV_NAME``, else the only one). Raises NotFound, UsageError.

        It is kept at the end of a ``with`` block unless ``keep=False``: what was there before the tests should be
        there after.
        """
        return cls(names.existing(name), keep=keep)

    @property
    def state(self) -> Path:
        """The state folder."""
        return paths.environment(self.name)

    @property
    def inventory_path(self) -> Path:
        """A static inventory that plain ``ansible -i`` takes. Raises NotFound while there are no nodes."""
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
    def kubeconfig(self) -> Path:
        """The kubeconfig of the cluster ``main``. Raises NotFound while there is none."""
        return access.kubeconfig(self.name)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables for programs that use the environment: what `devenv env` prints."""
        return access.variables(self.name)

    def kubernetes(self) -> ApiClient:
        """A client of the package ``kubernetes``, configured by this kubeconfig and by nothing else; close it, or use
        ``with``.
        """
        from kubernetes import config

        client: ApiClient = config.new_client_from_config(str(self.kubeconfig), persist_config=False)  # type: ignore[no-untyped-call]
        return client

    def status(self) -> dict[str, Any]:
        """What `devenv status --json` prints."""
        from devenv.environments import status as environment_status

        return environment_status.status(self.name)

    def validate(self, *, timeout: float | None = None, watcher: Watcher | None = None) -> Sequence[Mapping[str, Any]]:
        """Run all checks, with real pods; return a row a check: ``{cluster, name, ok, seconds, seen, warnings}``.

        Raises StageFailed with what is missing; its ``checks`` has the rows.
        """
        options = Options(timeout=timeout, command="Environment.validate")
        return operations.validate(self.name, options, watcher).checks

    def gather(
        self,
        output: str | os.PathLike[str] = "",
        *,
        timeout: float | None = None,
        watcher: Watcher | None = None,
    ) -> Path:
        """Write one archive of what nodes, clusters and this host know; return its path.

        ``output``: a file .tar.gz or a folder, by default the working directory. A node that does not answer is noted
        in the archive's index.
        """
        options = Options(timeout=timeout, command="Environment.gather")
        return operations.gather(self.name, os.fspath(output), options, watcher).path

    def upgrade(self, kubernetes: str, *, timeout: float | None = None, watcher: Watcher | None = None) -> None:
        """Bring the environment to another version of Kubernetes, node by node; ``timeout`` in seconds for the whole.

        Raises Error for a step that cannot be taken: the same, an older, or not the next minor version.
        """
        options = Options(timeout=timeout, command="Environment.upgrade")
        operations.upgrade(self.name, kubernetes, options, watcher)

    def stop(self, watcher: Watcher | None = None) -> None:
        """Stop the nodes as a shutdown would; `start` brings them back."""
        playbook.run("stop", self.name, {}, Options(command="Environment.stop"), watcher)

    def start(self, watcher: Watcher | None = None) -> None:
        """Start stopped nodes and wait until the cluster is ready."""
        playbook.run("start", self.name, {}, Options(command="Environment.start"), watcher)

    def save(self, snapshot: str, *, force: bool = False, watcher: Watcher | None = None) -> None:
        """Save what the environment holds under the name ``snapshot``."""
        operations.save_snapshot(self.name, snapshot, Options(command="Environment.save"), watcher, force=force)

    def down(self, watcher: Watcher | None = None) -> None:
        """Remove the environment; once more is no error."""
        operations.down(self.name, Options(command="Environment.down"), watcher)

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
