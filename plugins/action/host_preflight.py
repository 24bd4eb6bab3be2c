# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at the host before the first change: see plugins/modules/host_preflight.py for its documentation."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import errors
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import preflight


class ActionModule(ActionBase):
    """Fail with everything that is missing at once, or return what was seen."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("environment",))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _ignored, args = self.validate_argument_spec(argument_spec={"environment": {"type": "str", "required": True}})
        try:
            resolved = inventory.profile_of(task_vars or {}) or {}
            probes = preflight.look(args["environment"], resolved)
            preflight.require(probes)
        except errors.DevenvError as error:
            return errors.as_result(error)
        return {"changed": False, "probes": [vars(probe) for probe in probes]}
