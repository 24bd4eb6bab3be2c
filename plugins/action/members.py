"""List, add, check and remove the nodes of an environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import (
    inventory,
    members,
    node_changes,
    stages,
    state,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import readiness
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command, reachable


class ActionModule(Action, ActionBase):
    SELECT = "action"
    NAMED = ("remove", "check", "bootstrap", "query", "leave", "forget")
    REQUIRED_IF = tuple(("action", action, ("nodes",)) for action in NAMED)

    def _list(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        machines = dict.fromkeys(args["running"], "running")
        folder = inventory.state_folder(variables)
        rows = node_changes.rows(folder, machines, lambda path: readiness.nodes(path, args["timeout"])[1])
        return {"changed": False, "nodes": rows}

    def _add(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        return self._amend(variables, lambda resolved: node_changes.added(resolved, args["nodes"], args["keys"]))

    def _remove(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        return self._amend(variables, lambda resolved: node_changes.removed(resolved, args["nodes"]))

    def _amend(self, variables: dict[str, Any], change: Callable[[Profile], Mapping[str, Any]]) -> dict[str, Any]:
        folder, resolved = inventory.state_folder(variables), _profile(variables)
        amended = amend.amend(resolved, change(resolved))
        stages.compare(folder, amended)
        if not self.check:
            state.write_profile(folder, amended)
        return {"changed": True, "names": [node["name"] for node in amended["nodes"]]}

    def _check(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        recorded = members.recorded(inventory.state_folder(variables))
        members.check_replacement(_profile(variables), recorded, args["running"], args["nodes"])
        return {"changed": False}

    def _bootstrap(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder, cluster = inventory.state_folder(variables), str(variables["devenv_cluster"])
        lost = members.recorded(folder).get(cluster)
        if lost and not args["recreate"]:
            raise members.loss(cluster, lost, ())
        if lost and not self.check:
            members.discard(folder, [cluster])
        return {"changed": bool(lost)}

    def _query(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        names, hostvars, known = (
            args["nodes"],
            variables["hostvars"],
            members.recorded(inventory.state_folder(variables)),
        )
        reached = [name for name in names if name in args["running"] and hostvars[name].get("ansible_host")]
        targets = {name: command.connection(name, hostvars[name]) for name in reached}
        answering = reachable.answering_ssh(targets, args["timeout"])
        joined = [name for name in names if _came_up(hostvars[name], known)]
        return {"changed": False, "answering": answering, "joined": members.order(joined, answering)}

    def _leave(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        return {"changed": self.check or members.leave(inventory.state_folder(variables), args["nodes"])}

    def _forget(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if self.check:
            return {"changed": True, "forgotten": []}
        forgotten = members.forget(inventory.state_folder(variables), _profile(variables), args["nodes"])
        return {"changed": bool(forgotten), "forgotten": forgotten}


def _profile(variables: dict[str, Any]) -> Profile:
    return state.stored_profile(inventory.state_folder(variables))


def _came_up(variables: Any, known: Any) -> bool:
    """Return whether the node's cluster came up once: it is on record or, if that run was killed, has a kubeconfig."""
    kubeconfig = str(variables.get("devenv_kubeconfig") or "")
    return str(variables.get("devenv_cluster") or "") in known or (kubeconfig != "" and Path(kubeconfig).exists())
