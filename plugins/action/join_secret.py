# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep the secret for joins on the controller."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.engines.kubeadm import join_secret


class ActionModule(ActionBase):
    """Says whether the secret was made or removed, never the secret."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _ignored, arguments = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "path", "required": True},
                "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            }
        )
        path, check = Path(arguments["path"]), self._task.check_mode
        if arguments["state"] == "absent":
            join_secret.remove(path, check=check)
        else:
            join_secret.ensure(path, time.time(), check=check)
        # A file for the time of a run is no change of the environment.
        return {**result, "changed": False, "path": str(path)}
