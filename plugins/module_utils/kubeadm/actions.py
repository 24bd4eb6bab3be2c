"""Carry out the actions of the module kubeadm."""

from __future__ import annotations

from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import address, certificates, create, members
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine

ACTIONS = ("init", "join", "reset", "allow_join", "drain", "forget", "renew_certificates", "change_address")


def perform(machine: Machine, action: str, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Do one of ACTIONS on this node. ``only_check`` says what would be done. Raises `StepFailed`."""
    if action == "renew_certificates":
        return certificates.renew(machine, params, only_check)
    if action == "change_address":
        return address.change(machine, params, only_check)
    role = "worker" if action == "join" and not params["control_plane"] else "control_plane"
    if only_check:
        done = {"init": role, "join": role, "reset": "absent"}.get(action)
        state = kubernetes.state(machine.root)["state"]
        return {"changed": state != done if done else bool(params["nodes"])}
    return dict(_change(machine, action, params, role), ca_hash=kubernetes.ca_hash(machine.root))


def _change(machine: Machine, action: str, params: dict[str, Any], role: str) -> dict[str, Any]:
    if action == "reset":
        return create.reset(machine)
    if action == "allow_join":
        return members.allow_join(machine, params)
    if action == "drain":
        return members.drain(machine, params["nodes"], params["timeout"])
    if action == "forget":
        removed = members.forget(machine, params["nodes"], params["members"])
        return {"changed": bool(removed), "removed": removed}
    return create.create(machine, action, params, role)
