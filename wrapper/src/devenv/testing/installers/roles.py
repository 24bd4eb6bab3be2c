"""Roles of Ansible on the hosts of a test, for installers that map to one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from devenv.testing.errors import NotAvailable

if TYPE_CHECKING:
    from devenv.testing.objects import Host


def playbook(role: str, nodes: Sequence[str], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One play that runs the role on the nodes."""
    return [
        {
            "name": f"Installer | Run {role}",
            "hosts": list(nodes),
            "gather_facts": True,
            "tasks": [{"name": f"Run {role}", "ansible.builtin.include_role": {"name": role}, "vars": dict(variables)}],
        }
    ]


def run_role(role: str, hosts: Sequence[Host], variables: Mapping[str, Any]) -> None:
    """Run a role on hosts of one devenv environment, with the inventory that it has. Raises devenv.StageFailed, and
    NotAvailable for hosts of none.
    """
    from devenv.runs.playbook import Options, run

    names = {host.environment_name for host in hosts}
    if names == {""} or len(names) != 1:
        raise NotAvailable(f"role {role}: the hosts are of no environment of devenv, which has the inventory")
    with tempfile.TemporaryDirectory(prefix="devenv-role-") as place:
        path = Path(place, "role.yml")
        path.write_text(yaml.safe_dump(playbook(role, [host.node for host in hosts], variables), sort_keys=False))
        run(str(path), names.pop(), {}, Options(command=f"installer {role}"))
