# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller side of an installation of Gravity: see plugins/modules/gravity_plan.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError, as_result
from ansible_collections.devenv.lab.plugins.plugin_utils.engines.gravity import tarball
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state

ARGUMENTS: dict[str, dict[str, Any]] = {
    "tarball": {"type": "path", "required": True},
    "sha256": {"type": "str", "required": True},
    "flavor": {"type": "str", "default": ""},
    "nodes": {"type": "list", "elements": "str", "required": True},
    "state": {"type": "path", "default": ""},
}


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)[1]
        hostvars = (task_vars or {})["hostvars"]
        nodes = [
            {
                "name": name,
                "group": hostvars[name]["devenv_group"],
                "node_type": hostvars[name].get("devenv_node_type", ""),
            }
            for name in arguments["nodes"]
        ]
        try:
            folder = tarball.unpacked(arguments["tarball"], arguments["sha256"], paths.cache())
            plan = tarball.plan(tarball.application(folder), nodes, arguments["flavor"])
            changed = bool(arguments["state"]) and self._record(Path(arguments["state"]), arguments)
        except DevenvError as error:
            return as_result(error)
        return {
            "changed": changed,
            "program": str(folder / tarball.PROGRAM),
            "version": plan.version,
            "flavor": plan.flavor,
            "node_types": dict(plan.types),
        }

    def _record(self, folder: Path, arguments: dict[str, Any]) -> bool:
        """The profile that the environment keeps names this tarball from now on."""
        resolved = state.read_profile(folder)
        if resolved is None:
            raise DevenvError("state_broken", "there is no profile.yml", where=str(folder))
        said = {**resolved["kubernetes"]["gravity"], "tarball": arguments["tarball"], "sha256": arguments["sha256"]}
        resolved["kubernetes"] = {**resolved["kubernetes"], "gravity": {key: _plain(said[key]) for key in said}}
        if self._task.check_mode:
            return bool(state.read_profile(folder) != resolved)
        changed = [state.write_profile(folder, resolved), state.write_inventory(folder)]
        return any(changed)


def _plain(value: Any) -> Any:
    """Ansible's texts are of types of its own, which are written into no file."""
    return str(value) if isinstance(value, str) else value
