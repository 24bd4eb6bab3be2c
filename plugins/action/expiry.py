"""Extend the life of an environment, or list the expired ones."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, state
from ansible_collections.devenv.lab.plugins.plugin_utils.records import expiry


class ActionModule(Action, ActionBase):
    SELECT = "action"
    REQUIRED_IF = (("action", "extend", ("ttl",)),)

    def _extend(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder = inventory.state_folder(variables)
        expires = expiry.read(folder) if self.check else expiry.extend(folder, args["ttl"])
        return {"changed": True, "expires": expires.isoformat() if expires else ""}

    def _list(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        home = paths.home()
        names = [name for name in state.environments(home) if expiry.is_expired(paths.environment(name))]
        return {"changed": False, "expired": names}
