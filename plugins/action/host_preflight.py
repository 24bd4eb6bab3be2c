# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at the host before the first change: see plugins/modules/host_preflight.py for its documentation."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import preflight, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Request


class ActionModule(Action, ActionBase):
    """Fail with everything that is missing at once, or return what was seen."""

    SPEC: ClassVar[Spec] = {"environment": {"type": "str", "required": True}}

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        resolved = inventory.required_profile(variables)
        probes = registry.of(resolved).preflight(Request(args["environment"], resolved, variables["hostvars"]))
        preflight.require(probes)
        return {"changed": False, "probes": [vars(probe) for probe in probes]}
