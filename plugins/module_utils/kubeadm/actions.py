"""The actions of the module kubeadm."""

from __future__ import annotations

from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import address, certificates, create, members
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine

ACTIONS = ("init", "join", "reset", "allow_join", "drain", "forget", "register", "renew_certificates", "change_address")


def perform(machine: Machine, action: str, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Perform one of ACTIONS on this node; with ``only_check``, predict the result. Raises `StepFailed`."""
    if action == "renew_certificates":
        return certificates.renew(machine, params, only_check)
    if action == "change_address":
        return address.change(machine, params, only_check)
    role = "worker" if action == "join" and not params["control_plane"] else "control_plane"
    if only_check:
        if action == "register":
            return {"changed": not kubernetes.is_registered(machine.root, machine.http_status)}
        goal = {"init": role, "join": role, "reset": "absent"}.get(action)
        state = kubernetes.state(machine.root)["state"]
        return {"changed": state != goal if goal else bool(params["nodes"])}
    if action == "reset":
        result = create.reset(machine)
    elif action == "allow_join":
        result = members.allow_join(machine, params)
    elif action == "register":
        result = members.register(machine, params)
    elif action == "drain":
        result = members.drain(machine, params["nodes"], params["timeout"])
    elif action == "forget":
        removed = members.forget(machine, params["nodes"], params["members"])
        result = {"changed": bool(removed), "removed": removed}
    else:
        result = create.create(machine, action, params, role)
    return dict(result, ca_hash=kubernetes.ca_hash(machine.root))
