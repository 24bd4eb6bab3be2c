# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Give a node another address: see plugins/modules/podman_address.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError, as_result
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import address as podman_address

ARGUMENTS: dict[str, dict[str, Any]] = {
    "environment": {"type": "str", "required": True},
    "node": {"type": "str", "required": True},
    "verb": {"type": "str", "required": True, "choices": ["begin", "end"]},
    "address": {"type": "str", "default": ""},
}


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)[1]
        try:
            return self._act(arguments, Path(str((task_vars or {})["devenv_state"])))
        except DevenvError as error:
            return as_result(error)
        except ProgramFailed as error:
            return as_result(DevenvError("podman_failed", str(error)))

    def _act(self, arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
        environment, node = arguments["environment"], arguments["node"]
        if self._task.check_mode:
            podman_address.check(state.read_profile(folder) or {"nodes": []}, node)
            return {"changed": True, "addresses": []}
        if arguments["verb"] == "begin":
            new = podman_address.begin(folder, environment, node, arguments["address"])
            return {"changed": True, "addresses": new}
        gone = podman_address.end(folder, environment, node)
        return {"changed": bool(gone), "addresses": gone}
