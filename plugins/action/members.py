# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes that join, leave or are made anew: what there is, what is refused, who answers, what is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, node_changes, stages, state
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import readiness
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command, reachable


class ActionModule(Action, ActionBase):
    SELECT = "action"
    SPEC: ClassVar[Spec] = {
        "action": {
            "type": "str",
            "required": True,
            "choices": ["list", "add", "remove", "check", "ask", "leave", "forget"],
        },
        "nodes": {"type": "list", "elements": "str", "default": []},
        "keys": {"type": "dict", "default": {}},
        "running": {"type": "list", "elements": "str", "default": []},
        "timeout": {"type": "float", "default": 5},
    }
    REQUIRED_IF = tuple(("action", action, ("nodes",)) for action in ("remove", "check", "ask", "leave", "forget"))

    def _list(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        machines = dict.fromkeys(args["running"], "running")
        found = node_changes.rows(_folder(variables), machines, lambda path: readiness.ask(path, args["timeout"])[1])
        return {"changed": False, "nodes": found}

    def _add(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        return self._amend(variables, lambda resolved: node_changes.added(resolved, args["nodes"], args["keys"]))

    def _remove(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        return self._amend(variables, lambda resolved: node_changes.removed(resolved, args["nodes"]))

    def _amend(self, variables: dict[str, Any], change: Callable[[Profile], Mapping[str, Any]]) -> dict[str, Any]:
        folder, resolved = _folder(variables), _profile(variables)
        wanted = amend.amend(resolved, change(resolved))
        stages.compare(folder, wanted)
        if not self.check:
            state.write_profile(folder, wanted)
        return {"changed": True, "names": [node["name"] for node in wanted["nodes"]]}

    def _check(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        recorded = members.recorded(_folder(variables))
        members.check_replacement(_profile(variables), recorded, args["running"], args["nodes"])
        return {"changed": False}

    def _ask(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        names, hostvars, known = args["nodes"], variables["hostvars"], members.recorded(_folder(variables))
        reached = [name for name in names if name in args["running"] and hostvars[name].get("ansible_host")]
        targets = {name: command.connection(name, hostvars[name]) for name in reached}
        answering = reachable.answering_ssh(targets, args["timeout"])
        joined = [name for name in names if _came_up(hostvars[name], known)]
        return {"changed": False, "answering": answering, "joined": members.order(joined, answering)}

    def _leave(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        return {"changed": self.check or members.leave(_folder(variables), args["nodes"])}

    def _forget(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if self.check:
            return {"changed": True, "forgotten": []}
        gone = members.forget(_folder(variables), _profile(variables), args["nodes"])
        return {"changed": bool(gone), "forgotten": gone}


def _folder(variables: dict[str, Any]) -> Path:
    return Path(str(variables["devenv_state"]))


def _profile(variables: dict[str, Any]) -> Profile:
    return state.stored_profile(_folder(variables))


def _came_up(variables: Any, known: Any) -> bool:
    """Whether the node's cluster is one: on record, or, when the run that made it was killed, with a kubeconfig."""
    kubeconfig = str(variables.get("devenv_kubeconfig") or "")
    return str(variables.get("devenv_cluster") or "") in known or (kubeconfig != "" and Path(kubeconfig).exists())
