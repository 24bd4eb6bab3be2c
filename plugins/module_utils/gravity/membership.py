"""Join nodes to a cluster of Gravity and take them out of it."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.gravity import cli, status
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import HOME, LOCAL_STATE, GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed


def wait(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Wait until the cluster has every one of ``members`` (addresses) and is whole. Changes nothing.

    A worker that joined was not held up by the others: they may have joined at the same time.
    """
    return {"changed": False, "cluster": status.until_whole(machine, params, params["members"]).public()}


def join(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Join this node to the cluster of ``peers``. What is left of an earlier cluster is cleaned first."""
    found = status.look(machine, params["address"])
    only_nodes = params["role"] != "master"
    if found["state"] == "member" and found["marker"]:
        return dict(status.finish(machine, params, only_nodes), changed=False)
    if not params["peers"]:
        raise StepFailed("gravity_no_master", "no master of the cluster is healthy")
    deadline = machine.now() + params["timeout"]
    brought = machine.path(HOME + "/gravity")
    program = brought if os.access(brought, os.X_OK) else machine.program
    if found["state"] not in ("absent", "member"):
        cli.leave_by_force(machine, deadline, program)
    machine.unmark()
    if found["state"] != "member":
        # Gravity takes the token nowhere else: while the join runs it can be seen in this node's list of processes.
        argv = [
            program,
            "join",
            ",".join(params["peers"]),
            f"--advertise-addr={params['address']}",
            f"--token={params['token']}",
            f"--role={params['node_type']}",
            *params["arguments"],
        ]
        cli.persist(machine, "join", argv, deadline=deadline, secrets=[params["token"]])
    return dict(status.finish(machine, params, only_nodes), changed=True)


def token(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Write what a node needs to join, as a healthy master gives it, into the file ``path`` (0600): ``{token,
    peers}``. Raises `StepFailed` gravity_no_master.
    """
    answer = status.read_status(machine.program)
    masters = status.healthy_masters(answer)
    if not masters or not answer.token:
        raise StepFailed("gravity_no_master", "; ".join(status.unhealthy(answer)) or "the cluster gives no token")
    path = machine.path(params["path"])
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    text = json.dumps({"token": answer.token, "peers": masters})
    files.write_if_changed(path, text)
    return {"changed": False, "masters": masters}


# --- fewer nodes -----------------------------------------------------------------------------------------------------


def remove(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Take the node with ``address`` out of this master's cluster; ``force`` for one that does not answer."""
    if not _is_member(machine, params["address"]):
        return {"changed": False}
    deadline = machine.now() + params["timeout"]
    argv = [machine.program, "remove", params["address"], *(["--force"] if params["force"] else []), "--confirm"]
    answer = cli.persist(machine, "remove", argv, deadline=deadline, accept="gravity_gone")
    status.follow(machine, cli.operation_id(answer.text), deadline)
    text = f"{params['address']} is still part of the cluster"
    machine.until(lambda: not _is_member(machine, params["address"]), deadline, "gravity_timeout", lambda: text)
    return {"changed": True}


def _is_member(machine: GravityMachine, address: str) -> bool:
    return status.member(status.read_status(machine.program), address) is not None


def leave(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Leave the cluster, and take Gravity off this node. The last node takes the cluster with it."""
    if not machine.has_state():
        machine.unmark()
        return {"changed": False}
    deadline = machine.now() + params["timeout"]
    found = status.look(machine, params["address"])
    alone = len(found["cluster"].get("nodes", [])) <= 1
    if params["force"] or alone or found["state"] != "member":
        cli.leave_by_force(machine, deadline)
    else:
        machine.unmark()
        argv = [machine.program, "leave", "--confirm"]
        if cli.persist(machine, "leave", argv, deadline=deadline, accept="gravity_gone").code not in cli.DONE:
            cli.leave_by_force(machine, deadline)
    text = f"{LOCAL_STATE} is still there"
    machine.until(lambda: not machine.has_state(), deadline, "gravity_leave", lambda: text)
    return {"changed": True}
