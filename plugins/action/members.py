# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes that leave their cluster or are made anew: what is refused, who answers, what is forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, state
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command, reachable


class ActionModule(Action, ActionBase):
    SPEC: ClassVar[Spec] = {
        "action": {"type": "str", "required": True, "choices": ["check", "ask", "leave", "forget"]},
        "nodes": {"type": "list", "elements": "str", "required": True},
        "running": {"type": "list", "elements": "str", "default": []},
        "timeout": {"type": "float", "default": 5},
    }

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder, names, running = Path(str(variables["devenv_state"])), args["nodes"], args["running"]
        resolved = state.read_profile(folder) or {"nodes": []}
        action = args["action"]
        if action == "check":
            members.check_replacement(resolved, members.recorded(folder), running, names)
            return {"changed": False}
        if action == "ask":
            return self._ask(folder, names, running, variables, args["timeout"])
        if self.check:
            return {"changed": True, "forgotten": []}
        if action == "leave":
            return {"changed": members.leave(folder, names)}
        gone = members.forget(folder, resolved, names)
        return {"changed": bool(gone), "forgotten": gone}

    def _ask(
        self, folder: Path, names: list[str], running: list[str], task_vars: dict[str, Any], timeout: float
    ) -> dict[str, Any]:
        hostvars, known = task_vars["hostvars"], members.recorded(folder)
        reached = [name for name in names if name in running and hostvars[name].get("ansible_host")]
        targets = {name: command.connection(name, hostvars[name]) for name in reached}
        answering = reachable.answering_ssh(targets, timeout)
        joined = [name for name in names if _came_up(hostvars[name], known)]
        return {"changed": False, "answering": answering, "joined": members.order(joined, answering)}


def _came_up(variables: Any, known: Any) -> bool:
    """Whether the node's cluster is one: on record, or, when the run that made it was killed, with a kubeconfig."""
    kubeconfig = str(variables.get("devenv_kubeconfig") or "")
    return str(variables.get("devenv_cluster") or "") in known or (kubeconfig != "" and Path(kubeconfig).exists())
