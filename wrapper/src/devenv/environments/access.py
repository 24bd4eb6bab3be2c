"""How a shell or another program gets at an environment: variables, ssh."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import env_file
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command

from devenv import errors

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _InventoryLoader(_Loader):  # type: ignore[misc, valid-type]  # which of two classes it is depends on libyaml
    """YAML of an inventory: text marked ``!unsafe`` for Ansible is text."""


_InventoryLoader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))


def inventory_path(name: str) -> Path:
    """The static inventory of the environment. Raises NotFound while it has no nodes."""
    path = paths.environment(name) / "inventory.yml"
    if not path.is_file():
        raise errors.NotFound(f"the environment {name} has no nodes yet", advice=f"devenv up -n {name} makes them")
    return path


def inventory(name: str) -> dict[str, Any]:
    """The static inventory as data: ``{"all": {"vars", "hosts", "children"}}``."""
    data = yaml.load(inventory_path(name).read_text(), Loader=_InventoryLoader)  # a SafeLoader
    return data if isinstance(data, dict) else {}


def hosts(name: str) -> dict[str, dict[str, Any]]:
    """Variables of each node, in the inventory's order."""
    found = inventory(name).get("all", {}).get("hosts") or {}
    return {host: dict(variables or {}) for host, variables in found.items()}


def kubeconfig(name: str, cluster: str = "main") -> Path:
    """The environment's own kubeconfig. Raises NotFound while there is none."""
    path = paths.environment(name) / "clusters" / cluster / "kubeconfig"
    if not path.is_file():
        raise errors.NotFound(
            f"the environment {name} has no kubeconfig yet", advice=f"devenv up -n {name} makes the cluster"
        )
    return path


def variables(name: str, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What `devenv env` prints: DEVENV_NAME, KUBECONFIG, ANSIBLE_INVENTORY, PATH with the bundle's programs in front.

    A variable whose file is not there yet is left out. With KUBECONFIG comes KUBECACHEDIR in the environment's folder:
    what kubectl learns of a cluster goes when the cluster goes.
    """
    folder = paths.environment(name)
    files = {"KUBECONFIG": folder / "kubeconfig", "ANSIBLE_INVENTORY": folder / "inventory.yml"}
    found = {"DEVENV_NAME": name} | {key: str(path) for key, path in files.items() if path.exists()}
    if "KUBECONFIG" in found:
        found["KUBECACHEDIR"] = str(folder / "kube-cache")
    programs = _programs(folder)
    if programs:
        rest = [part for part in env.get("PATH", os.defpath).split(os.pathsep) if part != str(programs)]
        found["PATH"] = os.pathsep.join([str(programs), *rest])
    return found


def _programs(folder: Path) -> Path | None:
    """Folder of kubectl and helm that fit the environment's Kubernetes."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
    from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state

    try:
        resolved = state.read_profile(folder)
        bundle = store.find(resolved["kubernetes"]["version"]) if resolved else None
    except (DevenvError, KeyError, OSError):
        return None
    return bundle.path / "bin" if bundle else None


def exports(found: Mapping[str, str]) -> str:
    """Lines for ``eval`` in any POSIX shell."""
    return env_file.render(found, "shell")


def ssh_command(name: str, node: str | None, words: Sequence[str] = (), *, root: bool = False) -> list[str]:
    """Return the argv of ssh to a node (the only one, if none is named).

    A single word is a line for the node's shell, several are a command and its arguments. ``root``: as root, also
    where the login user is another one. Raises NotFound, UsageError.
    """
    found = hosts(name)
    if node is None and len(found) == 1:
        node = next(iter(found))
    if node is None:
        raise errors.UsageError(f"which node? There are {', '.join(found)}", advice=f"devenv ssh -n {name} NODE")
    if node not in found:
        raise errors.NotFound(f"the environment {name} has no node {node}", advice=f"there are: {', '.join(found)}")
    host = found[node]
    if "ansible_host" not in host:
        raise errors.NotFound(f"node {node} has no address yet", advice=f"devenv up -n {name} makes it")
    if root:
        words = [*command.become(host), *words]
    line = [words[0] if len(words) == 1 else shlex.join(words)] if words else []
    return [*command.connection(node, host).ssh(), *line]
