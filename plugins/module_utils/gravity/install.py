"""Install Gravity on a node, make the cluster of one node, let it use another address, upgrade it."""

from __future__ import annotations

import os
import shutil
import tarfile
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.gravity import cli, status
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import HOME, GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import TAIL, StepFailed

# `gravity stop` and `gravity start` with another address.
RECONFIGURE_SINCE = (7, 0)


# --- the program and the tarball -------------------------------------------------------------------------------------


def unpack(machine: GravityMachine, tarball: str, sha256: str) -> tuple[str, bool]:
    """Unpack the tarball, and remove it; return the folder with what it holds, and whether it was unpacked now.

    Raises `StepFailed` gravity_tarball for another digest and for what is no tarball of a cluster.
    """
    folder = machine.path(f"{HOME}/{sha256[:16]}")
    done = os.path.join(folder, ".whole")
    if os.path.exists(done):
        return folder, False
    try:
        found = files.sha256(tarball)
    except OSError as error:
        raise StepFailed("gravity_tarball", f"{tarball}: {error.strerror}") from None
    if found != sha256:
        raise StepFailed("gravity_tarball", f"{tarball} has the digest {found}, wanted {sha256}")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder, mode=0o700)
    try:
        with tarfile.open(tarball) as archive:
            for entry in archive:
                _inside(entry)
                archive.extract(entry, folder)
    except tarfile.TarError as error:
        raise StepFailed("gravity_tarball", f"{tarball}: {error}") from None
    if not os.access(os.path.join(folder, "gravity"), os.X_OK):
        raise StepFailed("gravity_tarball", f"{tarball} has no program gravity")
    with open(done, "w", encoding="ascii"):
        os.unlink(tarball)
    return folder, True


def _inside(entry: tarfile.TarInfo) -> None:
    parts = entry.name.split("/")
    if entry.name.startswith("/") or ".." in parts or not (entry.isfile() or entry.isdir()):
        raise StepFailed("gravity_tarball", f"the tarball has {entry.name}, which is neither file nor folder below it")


# --- install -------------------------------------------------------------------------------------------------------


def check(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Run `gravity check` for the node type, with what it can set right itself. Raises `StepFailed` gravity_check."""
    folder, changed = unpack(machine, params["tarball"], params["sha256"])
    program = os.path.join(folder, "gravity")
    argv = [program, "check", "app.yaml", f"--profile={params['node_type']}", "--timeout=5m"]
    argv += ["--autofix"] if params["autofix"] else []
    answer = cli.run(argv, timeout=min(params["timeout"], 360), cwd=folder, log=machine.log("check"))
    if answer.code not in cli.DONE:
        raise StepFailed("gravity_check", f"gravity check: {cli.explain(answer.lines)}", answer.lines)
    return {"changed": changed, "output": answer.lines[-TAIL:]}


def install_argv(program: str, params: dict[str, Any]) -> list[str]:
    """Return argv of `gravity install`, with everything that has another default from version to version. No token: the
    cluster makes its own, which then stands in no list of processes.
    """
    argv = [
        program,
        "install",
        "--cloud-provider=generic",
        f"--advertise-addr={params['address']}",
        f"--cluster={params['cluster']}",
        f"--flavor={params['flavor']}",
        f"--role={params['node_type']}",
        f"--pod-network-cidr={params['pod_subnet']}",
        f"--service-cidr={params['service_subnet']}",
        f"--vxlan-port={params['vxlan_port']}",
    ]
    return [*argv, *params["arguments"]]


def install(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Make the cluster of this node, or start the one that it has (``prepared``: an image with Gravity in it, whose
    address was another). Nothing on a node whose cluster is whole.
    """
    found = status.look(machine, params["address"])
    if found["state"] == "member" and found["marker"]:
        return dict(status.finish(machine, params), changed=False)
    if params["prepared"]:
        if found["state"] == "absent":
            raise StepFailed("gravity_absent", "the profile says that this image has Gravity in it, and it has not")
        return change_address(machine, params)
    deadline = machine.now() + params["timeout"]
    if found["state"] == "moved" and found["marker"].get("address") == params["address"]:
        # It was finished here and is stopped.
        argv = [machine.program, "start", "--confirm"]
        cli.check(cli.run(argv, timeout=params["timeout"], log=machine.log("start")), "start")
        return dict(status.finish(machine, params), changed=True)
    if found["state"] != "absent":
        cli.leave_by_force(machine, deadline)
    machine.unmark()
    check(machine, params)
    folder = unpack(machine, params["tarball"], params["sha256"])[0]
    argv = install_argv(os.path.join(folder, "gravity"), params)
    answer = cli.persist(machine, "install", argv, deadline=deadline, cwd=folder)
    status.follow(machine, cli.operation_id(answer.text), deadline)
    return dict(status.finish(machine, params), changed=True)


def adopt(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Wait until the cluster that someone else made on this node (a script) is whole, and record it."""
    found = status.look(machine, params["address"])
    return dict(status.finish(machine, params), changed=not found["marker"])


# --- another address -------------------------------------------------------------------------------------------------


def change_address(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Let the only node of a cluster use ``address``: stop, start with it. Nothing when it has it already.

    Raises `StepFailed`: gravity_version before 7.0, gravity_many_nodes, before anything changes.
    """
    wanted = params["address"]
    found = status.look(machine, wanted)
    if found["state"] == "absent":
        raise StepFailed("gravity_absent", "Gravity is not installed on this node")
    if found["state"] == "member":
        return dict(status.finish(machine, params), changed=not found["marker"])
    has = status.version(machine)
    if has[:2] < RECONFIGURE_SINCE:
        told = ".".join(str(part) for part in has) or "an unknown version"
        raise StepFailed("gravity_version", f"another address needs Gravity 7.0 or later; this is {told}")
    if len(found["cluster"].get("nodes", [])) > 1:
        raise StepFailed("gravity_many_nodes", f"the cluster has {len(found['cluster']['nodes'])} nodes")
    deadline = machine.now() + params["timeout"]
    machine.unmark()
    argv = [machine.program, "start", f"--advertise-addr={wanted}", "--confirm"]
    answer = cli.persist(machine, "start", argv, deadline=deadline, accept="gravity_same_address")
    if answer.code not in cli.DONE:
        # It has the address already, and was only stopped.
        argv = [machine.program, "start", "--confirm"]
        cli.check(cli.run(argv, timeout=deadline - machine.now(), log=machine.log("start")), "start")
    status.follow(machine, cli.operation_id(answer.text), deadline)
    return dict(status.finish(machine, params), changed=True)


# --- another version -------------------------------------------------------------------------------------------------


def upgrade(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Upload the tarball's application to the cluster and upgrade to it. Nothing when the cluster runs it."""
    now = status.read_status(machine.program)
    if params["version"] and now.version == params["version"] and not now.operations:
        return {"changed": False, "cluster": now.public()}
    missing = status.unhealthy(now)
    if missing and not any(one.get("type") == "operation_update" for one in now.operations):
        raise StepFailed("gravity_degraded", f"not upgraded: {'; '.join(missing)}")
    deadline = machine.now() + params["timeout"]
    folder = unpack(machine, params["tarball"], params["sha256"])[0]
    running = next((one["id"] for one in now.operations if one.get("type") == "operation_update"), "")
    if not running:
        cli.persist(machine, "upload", [os.path.join(folder, "upload")], deadline=deadline, cwd=folder)
        argv = [os.path.join(folder, "gravity"), "upgrade"]
        running = cli.operation_id(cli.persist(machine, "upgrade", argv, deadline=deadline, cwd=folder).text)
    status.follow(machine, running, deadline)
    return dict(status.finish(machine, params), changed=True)
