"""What gives programs access to an environment: profile, inventory, kubeconfig, variables, ssh."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import env_file
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import default_cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command

from devenv import errors

if TYPE_CHECKING:
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _InventoryLoader(_Loader):  # type: ignore[misc, valid-type]  # which of two classes it is depends on libyaml
    """YAML of an inventory, with text that is marked ``!unsafe`` for Ansible as plain text."""


_InventoryLoader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))


def profile(name: str) -> Profile:
    """Return the resolved profile that is stored in the environment's state. Raises NotFound if there is none yet."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state  # slow to import

    with errors.translated():
        resolved = state.read_profile(paths.environment(name))
    if resolved is None:
        raise errors.NotFound(f"environment {name} has no profile yet", advice=f"devenv up -n {name} --profile aio")
    return resolved


def inventory_path(name: str) -> Path:
    """Return the environment's static inventory file. Raises NotFound if there are no nodes yet."""
    path = paths.environment(name) / "inventory.yml"
    if not path.is_file():
        raise errors.NotFound(f"environment {name} has no nodes yet", advice=f"devenv up -n {name} creates them")
    return path


def inventory(name: str) -> dict[str, Any]:
    """Return the static inventory as data: ``{"all": {"vars", "hosts", "children"}}``."""
    path = inventory_path(name)
    try:
        data = yaml.load(path.read_bytes(), Loader=_InventoryLoader)  # a SafeLoader
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise _broken(path, str(error).splitlines()[0]) from None
    if not isinstance(data, dict) or not isinstance((data.get("all") or {}).get("hosts"), dict):
        raise _broken(path, "is not an inventory of hosts")
    return data


def _broken(path: Path, trouble: str) -> errors.Error:
    from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

    return errors.from_logic(DevenvError("state_broken", trouble, where=str(path), advice="devenv up writes it again"))


def hosts(name: str) -> dict[str, dict[str, Any]]:
    """Return the variables of each node, in the inventory's order."""
    entries = inventory(name).get("all", {}).get("hosts") or {}
    return {host: dict(variables or {}) for host, variables in entries.items()}


def clusters(name: str) -> list[str]:
    """Return the names of the environment's clusters, in the profile's order. Raises NotFound without a profile."""
    return list(profile(name)["clusters"])


def cluster(name: str, chosen: str | None = None) -> str:
    """Return the cluster ``chosen``, else ``main``, else the only one. Raises NotFound, UsageError."""
    existing = clusters(name)
    listed = ", ".join(existing)
    if not existing:
        raise errors.NotFound(f"environment {name} has no cluster", advice="devenv ssh and inventory work without one")
    if chosen is not None and chosen not in existing:
        raise errors.NotFound(f"environment {name} has no cluster {chosen}", advice=f"its clusters are: {listed}")
    which = chosen or default_cluster.of(existing)
    if not which:
        raise errors.UsageError(f"several clusters exist: {listed}", advice="name one with --cluster")
    return which


def kubeconfig(name: str, chosen: str | None = None) -> Path:
    """Return the kubeconfig file of a cluster, chosen as `cluster` does. Raises NotFound if there is none yet,
    UsageError.
    """
    which = cluster(name, chosen)
    path = paths.environment(name) / "clusters" / which / "kubeconfig"
    if not path.is_file():
        of = "" if which == default_cluster.NAME else f" of cluster {which}"
        raise errors.NotFound(
            f"environment {name} has no kubeconfig{of} yet", advice=f"devenv up -n {name} creates the cluster"
        )
    return path


def contexts(name: str, chosen: str | None = None) -> dict[str, Path]:
    """Return the kubeconfig files of all clusters, or of the ``chosen`` one, by the name of their context. Raises as
    `kubeconfig`.
    """
    which = [cluster(name, chosen)] if chosen is not None else clusters(name) or [cluster(name)]
    return {context(name, each): kubeconfig(name, each) for each in which}


def context(name: str, chosen: str | None = None) -> str:
    """Return the name of a cluster's context, user and cluster in kubeconfigs. Raises as `cluster`."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import kubeconfig as files  # slow to import

    return files.context_name(name, cluster(name, chosen))


def variables(
    name: str, chosen: str | None = None, env: Mapping[str, str] = os.environ, *, need_cluster: bool = False
) -> dict[str, str]:
    """Return the variables that `devenv env` prints: DEVENV_NAME, KUBECONFIG of a cluster (chosen as `cluster` does),
    ANSIBLE_INVENTORY, NO_PROXY and no_proxy with the environment's hosts, and PATH with the bundle's binaries first.

    KUBECONFIG is accompanied by KUBECACHEDIR in the state directory, so that kubectl's cache of a cluster is removed
    with the cluster. It is never left out, because kubectl would then use the user's own cluster: while there is no
    cluster, it names a file that does not exist or, with ``need_cluster``, this raises NotFound.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import no_proxy

    folder = paths.environment(name)
    exported = {"DEVENV_NAME": name, "KUBECONFIG": str(_config_path(name, chosen, need_cluster))}
    exported["KUBECACHEDIR"] = str(folder / "kube-cache")
    if (folder / "inventory.yml").exists():
        exported["ANSIBLE_INVENTORY"] = str(folder / "inventory.yml")
    with errors.translated():
        exported |= no_proxy.variables(no_proxy.of_environment(folder), env)
    binaries = _binaries(folder)
    if binaries:
        others = [part for part in env.get("PATH", os.defpath).split(os.pathsep) if part != str(binaries)]
        exported["PATH"] = os.pathsep.join([str(binaries), *others])
    return exported


def _config_path(name: str, chosen: str | None, need_cluster: bool) -> Path:
    try:
        path = kubeconfig(name, chosen)
    except errors.NotFound:
        if need_cluster or chosen is not None:
            raise
        return paths.environment(name) / "kubeconfig"
    link = paths.environment(name) / "kubeconfig"
    return link if link.exists() and link.samefile(path) else path


def _binaries(folder: Path) -> Path | None:
    """Return the directory of kubectl and helm for the environment's Kubernetes version, if the bundle exists."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
    from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state

    try:
        resolved = state.read_profile(folder)
        bundle = store.find(resolved["kubernetes"]["version"]) if resolved else None
    except (DevenvError, KeyError, OSError):
        return None
    return bundle.path / "bin" if bundle else None


def exports(values: Mapping[str, str]) -> str:
    """Return lines for ``eval`` in any POSIX shell."""
    return env_file.render(values, "shell")


def ssh_command(name: str, node: str | None, words: Sequence[str] = (), *, root: bool = False) -> list[str]:
    """Return the argv of ssh to a node (None: the only node).

    A single word is a line for the node's shell; several words are a command and its arguments. ``root``: run it as
    root even if the login user is not root. Raises NotFound, UsageError.
    """
    nodes = hosts(name)
    listed = ", ".join(nodes)
    if node is None and len(nodes) > 1:
        raise errors.UsageError(f"several nodes exist: {listed}", advice=f"name one: devenv ssh -n {name} NODE")
    chosen = node or next(iter(nodes), "")
    if chosen not in nodes:
        raise errors.NotFound(f"environment {name} has no node {chosen}".rstrip(), advice=f"its nodes are: {listed}")
    host = nodes[chosen]
    if "ansible_host" not in host:
        raise errors.NotFound(f"node {chosen} has no address yet", advice=f"devenv up -n {name} assigns one")
    if root:
        words = [*command.become(host), *words]
    line = [words[0] if len(words) == 1 else shlex.join(words)] if words else []
    return [*command.connection(chosen, host).ssh(), *line]
