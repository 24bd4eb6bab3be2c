# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Give a node another address: see plugins/modules/podman_address.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, state
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import address as podman_address


class ActionModule(Action, ActionBase):
    """Add a node's new addresses, or remove its old ones."""

    SPEC: ClassVar[Spec] = {
        "environment": {"type": "str", "required": True},
        "node": {"type": "str", "required": True},
        "action": {"type": "str", "required": True, "aliases": ["verb"], "choices": ["begin", "end"]},
        "address": {"type": "str", "default": ""},
    }
    PROGRAM_REASON = "podman_failed"

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder, environment, node = Path(str(variables["devenv_state"])), args["environment"], args["node"]
        if self.check:
            members.check_move(state.stored_profile(folder), node)
            return {"changed": True, "addresses": []}
        if args["action"] == "begin":
            return {"changed": True, "addresses": podman_address.begin(folder, environment, node, args["address"])}
        removed = podman_address.end(folder, environment, node)
        return {"changed": bool(removed), "addresses": removed}
