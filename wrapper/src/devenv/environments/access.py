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
    data = yaml.load(inventory_path(name).read_text(), Loader=_InventoryLoader)  # a SafeLoader
    return data if isinstance(data, dict) else {}


def hosts(name: str) -> dict[str, dict[str, Any]]:
    """Return the variables of each node, in the inventory's order."""
    entries = inventory(name).get("all", {}).get("hosts") or {}
    return {host: dict(variables or {}) for host, variables in entries.items()}


def kubeconfig(name: str, cluster: str = "main") -> Path:
    """Return the kubeconfig file of a cluster. Raises NotFound if there is none yet."""
    path = paths.environment(name) / "clusters" / cluster / "kubeconfig"
    if not path.is_file():
        raise errors.NotFound(
            f"environment {name} has no kubeconfig yet", advice=f"devenv up -n {name} creates the cluster"
        )
    return path


def variables(name: str, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that `devenv env` prints: DEVENV_NAME, KUBECONFIG, ANSIBLE_INVENTORY, and PATH with the
    bundle's binaries first.

    A variable whose file does not exist yet is left out. KUBECONFIG is accompanied by KUBECACHEDIR in the state
    directory, so that kubectl's cache of a cluster is removed with the cluster.
    """
    folder = paths.environment(name)
    files = {"KUBECONFIG": folder / "kubeconfig", "ANSIBLE_INVENTORY": folder / "inventory.yml"}
    exported = {"DEVENV_NAME": name} | {key: str(path) for key, path in files.items() if path.exists()}
    if "KUBECONFIG" in exported:
        exported["KUBECACHEDIR"] = str(folder / "kube-cache")
    binaries = _binaries(folder)
    if binaries:
        others = [part for part in env.get("PATH", os.defpath).split(os.pathsep) if part != str(binaries)]
        exported["PATH"] = os.pathsep.join([str(binaries), *others])
    return exported


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
