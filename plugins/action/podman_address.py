"""Add the new addresses of a node, or remove its old ones."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, members, state
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import address as podman_address


class ActionModule(Action, ActionBase):
    PROGRAM_REASON = "podman_failed"

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder, environment, node = inventory.state_folder(variables), args["environment"], args["node"]
        if self.check:
            members.check_move(state.stored_profile(folder), node)
            return {"changed": True, "addresses": []}
        if args["action"] == "begin":
            return {"changed": True, "addresses": podman_address.begin(folder, environment, node, args["address"])}
        removed = podman_address.end(folder, environment, node)
        return {"changed": bool(removed), "addresses": removed}
