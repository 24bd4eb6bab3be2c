"""Join nodes to a cluster of Gravity and remove them."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.gravity import cli, status
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import HOME, LOCAL_STATE, GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import RUNTIME, StepFailed

ARGUMENTS = RUNTIME + "/gravity-join-arguments"


def wait(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Wait until the cluster has all ``members`` (addresses) and is healthy. Changes nothing.

    Workers may join at the same time, so their joins do not wait for one another.
    """
    return {"changed": False, "cluster": status.wait_until_healthy(machine, params, params["members"]).public()}


def join(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Join this node to the cluster of ``peers``. Removes traces of an earlier cluster first."""
    before = status.node_state(machine, params["address"])
    only_nodes = params["role"] != "master"
    if before["state"] == "member" and before["marker"]:
        return dict(status.finish(machine, params, only_nodes), changed=False)
    if not params["peers"]:
        raise StepFailed("gravity_no_master", "the cluster has no healthy master")
    deadline = machine.now() + params["timeout"]
    unpacked = machine.path(HOME + "/gravity")
    program = unpacked if os.access(unpacked, os.X_OK) else machine.program
    if before["state"] not in ("absent", "member"):
        cli.leave_by_force(machine, deadline, program)
    machine.unmark()
    if before["state"] != "member":
        words = [
            "join",
            ",".join(params["peers"]),
            f"--advertise-addr={params['address']}",
            f"--token={params['token']}",
            f"--role={params['node_type']}",
            *params["arguments"],
        ]
        # Gravity reads arguments from a file too, so that neither a process list nor its own log has the token.
        path = machine.path(ARGUMENTS)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        files.write_if_changed(path, "".join(f"{word}\n" for word in words))
        try:
            cli.persist(machine, "join", [program, f"@{path}"], deadline=deadline, secrets=[params["token"]])
        finally:
            os.unlink(path)
    return dict(status.finish(machine, params, only_nodes), changed=True)


def token(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Write what a node needs to join (``{token, peers}``, from a healthy master) to the file ``path`` (0600).

    Raises `StepFailed` gravity_no_master.
    """
    current = status.read_status(machine.program)
    masters = status.healthy_masters(current)
    if not masters or not current.token:
        problem = "; ".join(status.unhealthy(current)) or "gravity status returned no join token"
        raise StepFailed("gravity_no_master", problem)
    path = machine.path(params["path"])
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    files.write_if_changed(path, json.dumps({"token": current.token, "peers": masters}))
    return {"changed": False, "masters": masters}


def remove(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Remove the node with ``address`` from this master's cluster; ``force`` for an unreachable node."""
    address = params["address"]

    def is_member() -> bool:
        return status.member(status.read_status(machine.program), address) is not None

    if not is_member():
        return {"changed": False}
    deadline = machine.now() + params["timeout"]
    argv = [machine.program, "remove", address, *(["--force"] if params["force"] else []), "--confirm"]
    result = cli.persist(machine, "remove", argv, deadline=deadline, accept="gravity_gone")
    status.follow(machine, cli.operation_id(result.text), deadline)
    text = f"{address} is still part of the cluster"
    machine.until(lambda: not is_member(), deadline, "gravity_timeout", lambda: text)
    return {"changed": True}


def leave(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Leave the cluster and remove Gravity from this node. The cluster ends with its last node."""
    if not machine.has_state():
        machine.unmark()
        return {"changed": False}
    deadline = machine.now() + params["timeout"]
    before = status.node_state(machine, params["address"])
    is_last = len(before["cluster"].get("nodes", [])) <= 1
    if params["force"] or is_last or before["state"] != "member":
        cli.leave_by_force(machine, deadline)
    else:
        machine.unmark()
        argv = [machine.program, "leave", "--confirm"]
        if cli.persist(machine, "leave", argv, deadline=deadline, accept="gravity_gone").code not in cli.DONE:
            cli.leave_by_force(machine, deadline)
    text = f"{LOCAL_STATE} still exists"
    machine.until(lambda: not machine.has_state(), deadline, "gravity_leave", lambda: text)
    return {"changed": True}
