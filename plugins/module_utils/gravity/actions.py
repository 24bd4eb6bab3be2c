"""Carry out the actions of the module gravity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.gravity import access, install, membership, status
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import GravityMachine

ACTIONS: dict[str, Callable[[GravityMachine, dict[str, Any]], dict[str, Any]]] = {
    "check": install.check,
    "install": install.install,
    "adopt": install.adopt,
    "wait": membership.wait,
    "join": membership.join,
    "token": membership.token,
    "change_address": install.change_address,
    "remove": membership.remove,
    "leave": membership.leave,
    "kubeconfig": access.kubeconfig,
    "auth_gateway": access.auth_gateway,
    "upgrade": install.upgrade,
    "report": access.report,
}
_READING = ("check", "token", "wait")


def perform(machine: GravityMachine, action: str, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Do one action of the module on this node. ``only_check`` says from the node's state what would be done."""
    if action == "look":
        return dict(status.look(machine, params["address"]), changed=False)
    if only_check:
        found = status.look(machine, params["address"])
        done = {"leave": found["state"] == "absent", "report": False, "upgrade": False}
        return {"changed": action not in _READING and not done.get(action, found["state"] == "member")}
    return ACTIONS[action](machine, params)
