"""The actions of the module gravity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.gravity import access, images, install, membership, status
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
    "certificate": access.certificate,
    "images": images.published,
    "publish": images.publish,
    "upgrade": install.upgrade,
    "report": access.report,
}
_READ_ONLY = ("check", "token", "wait", "images", "certificate")


def perform(machine: GravityMachine, action: str, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Perform one action on this node; with ``only_check``, predict from the node's state whether it would change."""
    if action == "look":
        return dict(status.node_state(machine, params["address"]), changed=False)
    if only_check:
        state = status.node_state(machine, params["address"])["state"]
        if action == "images":
            # What is published already determines whether a run would change something.
            return images.published(machine, params) if state == "member" else {"changed": False, "images": []}
        is_done = {"leave": state == "absent", "report": False, "upgrade": False}.get(action, state == "member")
        return {"changed": action not in _READ_ONLY and not is_done}
    return ACTIONS[action](machine, params)
