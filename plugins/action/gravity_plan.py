# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller side of an installation of Gravity: see plugins/modules/gravity_plan.py for its documentation."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils import gravity, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.errors import DevenvError, as_result

ARGUMENTS: dict[str, dict[str, Any]] = {
    "tarball": {"type": "path", "required": True},
    "sha256": {"type": "str", "required": True},
    "flavor": {"type": "str", "default": ""},
    "nodes": {"type": "list", "elements": "str", "required": True},
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
            folder = gravity.unpacked(arguments["tarball"], arguments["sha256"], paths.cache())
            plan = gravity.plan(gravity.application(folder), nodes, arguments["flavor"])
        except DevenvError as error:
            return as_result(error)
        return {
            "changed": False,
            "program": str(folder / gravity.PROGRAM),
            "version": plan.version,
            "flavor": plan.flavor,
            "node_types": dict(plan.types),
        }
