# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes of any provider: see plugins/modules/nodes.py for its documentation. The base of the providers' own modules."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import module


class ActionModule(Action, ActionBase):
    """Bring all nodes of an environment into a state at once."""

    SPEC: ClassVar[Spec] = {
        **module.OPTIONS,
        "provider": {"type": "str"},
        "options": {"type": "dict", "default": {}},
    }
    REQUIRED_IF = module.required_if()
    # Empty: the option `provider` says it.
    PROVIDER: ClassVar[str] = ""

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        name = self.PROVIDER or args["provider"]
        if not name and args["state"] in ("absent", "destroy"):
            return module.remove_any(args, variables, self.say, check=self.check)
        return module.run(name or variables["devenv_provider"], args, variables, self.say, check=self.check)
