"""Bring all nodes of an environment into a state. Also the base of the modules of single providers."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import module


class ActionModule(Action, ActionBase):
    REQUIRED_IF = module.required_if()
    # Empty if the option `provider` names it.
    PROVIDER: ClassVar[str] = ""

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        name = self.PROVIDER or args["provider"]
        if not name and args["state"] in ("absent", "destroy"):
            return module.remove_any(args, variables, self.progress, check=self.check)
        return module.run(name or variables["devenv_provider"], args, variables, self.progress, check=self.check)
