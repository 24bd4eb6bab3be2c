"""Install Gravity on a node, create a cluster of one node, change its address, upgrade it."""

from __future__ import annotations

import os
import shutil
import tarfile
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.gravity import cli, status
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import HOME, GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import TAIL, StepFailed

# The first version whose `gravity start` accepts another address.
RECONFIGURE_SINCE = (7, 0)


def unpack(machine: GravityMachine, tarball: str, sha256: str) -> tuple[str, bool]:
    """Unpack the tarball and delete it; return the folder of its content, and whether it was unpacked now.

    Raises `StepFailed` gravity_tarball if the digest differs or the file is not a tarball of a cluster.
    """
    folder = machine.path(f"{HOME}/{sha256[:16]}")
    done = os.path.join(folder, ".whole")
    if os.path.exists(done):
        return folder, False
    try:
        digest = files.sha256(tarball)
    except OSError as error:
        raise StepFailed("gravity_tarball", f"{tarball}: {error.strerror}") from None
    if digest != sha256:
        raise StepFailed("gravity_tarball", f"{tarball} has the digest {digest}, expected {sha256}")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder, mode=0o700)
    try:
        with tarfile.open(tarball) as archive:
            for entry in archive:
                is_outside = entry.name.startswith("/") or ".." in entry.name.split("/")
                if is_outside or not (entry.isfile() or entry.isdir()):
                    text = f"the tarball has the entry {entry.name}, which is not a file or directory inside it"
                    raise StepFailed("gravity_tarball", text)
                archive.extract(entry, folder)
    except tarfile.TarError as error:
        raise StepFailed("gravity_tarball", f"{tarball}: {error}") from None
    if not os.access(os.path.join(folder, "gravity"), os.X_OK):
        raise StepFailed("gravity_tarball", f"{tarball} does not contain the program gravity")
    with open(done, "w", encoding="ascii"):
        os.unlink(tarball)
    return folder, True


def check(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Run `gravity check` for the node type, with its automatic fixes. Raises `StepFailed` gravity_check."""
    folder, changed = unpack(machine, params["tarball"], params["sha256"])
    program = os.path.join(folder, "gravity")
    argv = [program, "check", "app.yaml", f"--profile={params['node_type']}", "--timeout=5m"]
    argv += ["--autofix"] if params["autofix"] else []
    result = cli.run(argv, timeout=min(params["timeout"], 360), cwd=folder, log=machine.log("check"))
    if result.code not in cli.DONE:
        raise cli.failure("check", result, "gravity_check")
    return {"changed": changed, "output": result.lines[-TAIL:]}


def install_argv(program: str, params: dict[str, Any]) -> list[str]:
    """Return argv of `gravity install`, with every option whose default differs between versions.

    There is no token among them: the cluster generates its own, so that no process list shows it.
    """
    return [
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
        *params["arguments"],
    ]


def install(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Create the cluster of this node, or start the existing one; changes nothing on a finished node.

    ``prepared``: the node's image contains a cluster, which was created with another address.
    """
    before = status.node_state(machine, params["address"])
    if before["state"] == "member" and before["marker"]:
        return dict(status.finish(machine, params), changed=False)
    if params["prepared"]:
        if before["state"] == "absent":
            raise StepFailed("gravity_absent", "the profile requires an image with Gravity, but this image has none")
        return change_address(machine, params)
    deadline = machine.now() + params["timeout"]
    if before["state"] == "moved" and before["marker"].get("address") == params["address"]:
        # It was finished on this node and is stopped.
        cli.confirmed(machine, "start", timeout=params["timeout"])
        return dict(status.finish(machine, params), changed=True)
    if before["state"] != "absent":
        cli.leave_by_force(machine, deadline)
    machine.unmark()
    check(machine, params)
    folder = unpack(machine, params["tarball"], params["sha256"])[0]
    argv = install_argv(os.path.join(folder, "gravity"), params)
    result = cli.persist(machine, "install", argv, deadline=deadline, cwd=folder)
    status.follow(machine, cli.operation_id(result.text), deadline)
    return dict(status.finish(machine, params), changed=True)


def adopt(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Wait until the cluster that a script created on this node is healthy, and record it."""
    before = machine.marker()
    return dict(status.finish(machine, params), changed=not before)


def change_address(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Restart the only node of a cluster with ``address``; changes nothing if it already has it.

    Raises `StepFailed` before anything changes: gravity_version before 7.0, gravity_many_nodes.
    """
    address = params["address"]
    before = status.node_state(machine, address)
    if before["state"] == "absent":
        raise StepFailed("gravity_absent", "Gravity is not installed on this node")
    if before["state"] == "member":
        return dict(status.finish(machine, params), changed=not before["marker"])
    version = status.version(machine)
    if version[:2] < RECONFIGURE_SINCE:
        shown = ".".join(str(part) for part in version) or "an unknown version"
        raise StepFailed("gravity_version", f"changing the address needs Gravity 7.0 or later; this is {shown}")
    nodes = before["cluster"].get("nodes", [])
    if len(nodes) > 1:
        raise StepFailed("gravity_many_nodes", f"the cluster has {len(nodes)} nodes")
    deadline = machine.now() + params["timeout"]
    machine.unmark()
    argv = [machine.program, "start", f"--advertise-addr={address}", "--confirm"]
    result = cli.persist(machine, "start", argv, deadline=deadline, accept="gravity_same_address")
    if result.code not in cli.DONE:
        # It already has the address and was only stopped.
        cli.confirmed(machine, "start", timeout=deadline - machine.now())
    status.follow(machine, cli.operation_id(result.text), deadline)
    return dict(status.finish(machine, params), changed=True)


def upgrade(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Upload the application of the tarball and upgrade the cluster to it; changes nothing if it already runs it."""
    current = status.read_status(machine.program)
    if params["version"] and current.version == params["version"] and not current.operations:
        return {"changed": False, "cluster": current.public()}
    updates = [operation["id"] for operation in current.operations if operation.get("type") == "operation_update"]
    problems = status.unhealthy(current)
    if problems and not updates:
        raise StepFailed("gravity_degraded", f"not upgraded: {'; '.join(problems)}")
    deadline = machine.now() + params["timeout"]
    folder = unpack(machine, params["tarball"], params["sha256"])[0]
    if not updates:
        cli.persist(machine, "upload", [os.path.join(folder, "upload")], deadline=deadline, cwd=folder)
        argv = [os.path.join(folder, "gravity"), "upgrade"]
        updates = [cli.operation_id(cli.persist(machine, "upgrade", argv, deadline=deadline, cwd=folder).text)]
    status.follow(machine, updates[0], deadline)
    return dict(status.finish(machine, params), changed=True)
