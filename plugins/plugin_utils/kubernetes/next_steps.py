"""Lines that state what is up, how to use it and how to remove it, with commands of devenv or of plain Ansible."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import default_cluster, kubeconfig


def with_devenv(name: str, resolved: Mapping[str, Any], duration: str, *, only_one: bool) -> list[str]:
    """Return the lines with commands of devenv; they name the environment unless it is the only one."""
    option = "" if only_one else f" -n {name}"
    clusters = list(resolved["clusters"])
    cluster = "" if not clusters or default_cluster.of(clusters) else f" --cluster {clusters[0]}"
    use = f'eval "$(devenv env{option}{cluster})" && kubectl get nodes'
    if not clusters:
        use = f"devenv ssh{option} {resolved['nodes'][0]['name']}"
    return [
        f"{_is_up(name, resolved)}, in {duration}",
        f"use it:     {use}",
        f"remove it:  devenv down{option}",
    ]


def with_ansible(name: str, resolved: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the lines with commands of Ansible; ``folder`` is the state directory."""
    configs = [shlex.quote(str(kubeconfig.path_of(folder, cluster))) for cluster in resolved["clusters"]]
    ping = f"ansible -i {shlex.quote(str(folder / 'inventory.yml'))} nodes -m ansible.builtin.ping"
    use = f"export KUBECONFIG={os.pathsep.join(configs)} && kubectl get nodes" if configs else ping
    return [
        _is_up(name, resolved),
        f"use it:     {use}",
        f"remove it:  ansible-playbook {_playbook('destroy')} -e devenv_name={name}",
    ]


def _is_up(name: str, resolved: Mapping[str, Any]) -> str:
    count = len(resolved["nodes"])
    return f"{name} is up: {count} node{'s' if count != 1 else ''}, Kubernetes {resolved['kubernetes']['version']}"


def _playbook(name: str) -> str:
    """Return the argument of ansible-playbook: in a checkout the path, else the playbook's full name."""
    path = paths.COLLECTION / "playbooks" / f"{name}.yml"
    if not (paths.COLLECTION / "ansible.cfg").is_file():
        return f"devenv.lab.{name}"
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
