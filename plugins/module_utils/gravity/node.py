"""Bring this node, or the cluster it speaks for, to what is wanted of Gravity: by the real state, bounded in time.

What Gravity says and means is in ``gravity``. Nothing here returns a token.
"""

from __future__ import annotations

import base64
import glob
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.gravity import cli
from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import ProgramResult
from ansible_collections.devenv.lab.plugins.module_utils.node.wait import REAL, Clock

# Ours: what was unpacked, the record of what ended well, the kubeconfig.
HOME = "/var/lib/devenv/gravity"
MARKER = "/var/lib/devenv/gravity.json"
KUBECONFIG = HOME + "/kubeconfig"
RUNTIME = "/run/devenv"
LOGS = "/var/log/devenv"
# Gravity's own: its state on a node, and the units of its container.
LOCAL_STATE = "/var/lib/gravity/local"
UNITS = "/etc/systemd/system/gravity__*__planet*__*.service"

# `gravity stop` and `gravity start` with another address.
RECONFIGURE_SINCE = (7, 0)

ACCOUNT = "devenv-admin"
SECRET = ACCOUNT + "-token"
NAMESPACE = "kube-system"


class Machine:
    """Where things are on this node; a test shows it a folder, and a program that stands in for Gravity."""

    def __init__(self, root: str = "/", program: str = "", clock: Clock = REAL, pause: float = 2) -> None:
        self.root, self.clock, self.pause = root, clock, pause
        self._program = program

    def path(self, path: str) -> str:
        return files.under(self.root, path)

    @property
    def program(self) -> str:
        """The installed gravity, else the one that was brought."""
        if self._program:
            return self._program
        for path in ("/usr/bin/gravity", "/usr/local/bin/gravity", HOME + "/gravity"):
            if os.access(self.path(path), os.X_OK):
                return self.path(path)
        return "gravity"

    def rest(self, deadline: float, reason: str, text: str) -> None:
        cli.rest(self.clock, self.pause, deadline, reason, text)

    def log(self, name: str) -> str:
        os.makedirs(self.path(LOGS), mode=0o755, exist_ok=True)
        return self.path(f"{LOGS}/gravity-{name}.log")

    def has_state(self) -> bool:
        return os.path.isdir(self.path(LOCAL_STATE))

    def has_services(self) -> bool:
        return bool(glob.glob(self.path(UNITS)))

    def marker(self) -> dict[str, Any]:
        return files.read_json(self.path(MARKER))

    def mark(self, record: dict[str, Any]) -> None:
        path = self.path(MARKER)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".new", "w", encoding="utf-8") as stream:
            stream.write(json.dumps(record, sort_keys=True) + "\n")
        os.replace(path + ".new", path)

    def unmark(self) -> None:
        for path in (MARKER, KUBECONFIG):
            if os.path.exists(self.path(path)):
                os.unlink(self.path(path))


# --- what is here ----------------------------------------------------------------------------------------------------


def look(machine: Machine, address: str, timeout: float = 60) -> dict[str, Any]:
    """``{state, healthy, cluster, masters, problem, marker, kubeconfig_digest}`` of the node with ``address``.

    state: ``absent`` (nothing of Gravity), ``member`` (the cluster has this address), ``moved`` (installed with another
    one, or stopped), ``partial`` (begun, no cluster). Reads only.
    """
    found: dict[str, Any] = {
        "state": "absent",
        "healthy": False,
        "role": "",
        "cluster": {},
        "masters": [],
        "problem": "",
        "marker": machine.marker(),
        "kubeconfig_digest": _digest(machine.path(KUBECONFIG)),
    }
    if not machine.has_state():
        return found
    found["state"] = "moved" if machine.has_services() else "partial"
    try:
        status = cli.read_status(machine.program, timeout)
    except StepFailed as error:
        found["problem"] = str(error)
        if error.reason == "gravity_moved":
            found["state"] = "moved"
        return found
    found["cluster"] = status.public()
    found["masters"] = cli.healthy_masters(status)
    own = cli.member(status, address)
    if own is not None:
        found.update(state="member", role=own.role, healthy=own.status == "healthy")
    elif status.nodes and not machine.has_services():
        found["state"] = "partial"
    return found


def _digest(path: str) -> str:
    try:
        return "sha256:" + files.sha256(path)
    except OSError:
        return ""


def version(machine: Machine) -> tuple[int, ...]:
    """Gravity's own version as numbers, () when it does not say."""
    answer = cli.run([machine.program, "version", "-o", "json"], timeout=60)
    try:
        return tuple(int(part) for part in re.findall(r"\d+", str(json.loads(answer.stdout)["version"]))[:3])
    except (ValueError, KeyError, TypeError):
        return ()


# --- one command until it worked -------------------------------------------------------------------------------------


def persist(
    machine: Machine,
    action: str,
    argv: Sequence[str],
    *,
    deadline: float,
    secrets: Sequence[str] = (),
    cwd: str | None = None,
    accept: str = "",
) -> ProgramResult:
    """Run ``argv`` and do what Gravity's errors ask for: wait while the cluster is busy, resume, clean what an earlier
    try left, stop what runs. Each remedy but waiting is tried once. An error with the reason ``accept`` says that
    there is nothing to do.

    Raises `StepFailed` with the reason of the last text.
    """
    tried: set[str] = set()
    log = machine.log(action)
    command = list(argv)
    while True:
        left = deadline - machine.clock.now()
        answer = cli.run(command, timeout=left, secrets=secrets, log=log, cwd=cwd)
        if answer.code in cli.DONE:
            return answer
        rule = cli.classify(answer.text)
        kind = rule.kind if rule else "fail"
        if rule is not None and rule.reason == accept:
            return answer
        told = f"gravity {action}: {cli.explain(answer.lines)}"
        if answer.code == 124:
            # It waits for ever by itself: what it waits for is the reason.
            raise StepFailed(rule.reason if rule else "gravity_timeout", told, answer.lines)
        if answer.code == cli.PRECONDITION:
            raise StepFailed("gravity_precondition", told, answer.lines)
        if answer.code == cli.ABORTED:
            raise StepFailed("gravity_aborted", told, answer.lines)
        if kind == "wait" and machine.clock.now() + machine.pause < deadline:
            machine.clock.sleep(machine.pause)
            continue
        remedy = REMEDIES.get(kind)
        if remedy is None or kind in tried:
            raise StepFailed(rule.reason if rule else "gravity_failed", told, answer.lines)
        tried.add(kind)
        command = remedy(machine, list(argv), deadline, cwd)


def _resume(machine: Machine, argv: list[str], deadline: float, cwd: str | None) -> list[str]:
    # The installer that runs already goes on; it is asked to show its end.
    return [argv[0], "resume"]


def _clean(machine: Machine, argv: list[str], deadline: float, cwd: str | None) -> list[str]:
    leave_by_force(machine, deadline, argv[0])
    return argv


def _stop(machine: Machine, argv: list[str], deadline: float, cwd: str | None) -> list[str]:
    left = deadline - machine.clock.now()
    _check(cli.run([argv[0], "stop", "--confirm"], timeout=left, log=machine.log("stop")), "stop")
    return argv


REMEDIES: dict[str, Callable[[Machine, list[str], float, str | None], list[str]]] = {
    "resume": _resume,
    "clean": _clean,
    "stop": _stop,
}


def _check(answer: ProgramResult, what: str) -> ProgramResult:
    if answer.code not in cli.DONE:
        rule = cli.classify(answer.text)
        reason = rule.reason if rule else "gravity_failed"
        raise StepFailed(reason, f"gravity {what}: {cli.explain(answer.lines)}", answer.lines)
    return answer


def leave_by_force(machine: Machine, deadline: float, program: str = "") -> None:
    """Take off what is left of Gravity here; the cluster, if there is one, is not told. Raises `StepFailed`."""
    machine.unmark()
    argv = [program or machine.program, "leave", "--force", "--confirm"]
    answer = cli.run(argv, timeout=max(deadline - machine.clock.now(), 1), log=machine.log("leave"))
    rule = cli.classify(answer.text)
    if answer.code not in cli.DONE and (rule is None or rule.reason not in ("gravity_gone", "gravity_orphan")):
        raise StepFailed("gravity_leave", f"gravity leave: {cli.explain(answer.lines)}", answer.lines)


# --- the program and the tarball -------------------------------------------------------------------------------------


def unpack(machine: Machine, tarball: str, sha256: str) -> tuple[str, bool]:
    """The folder with what the tarball holds, and whether it was unpacked now. The tarball goes afterwards.

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


# --- install, join ---------------------------------------------------------------------------------------------------


def check(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """`gravity check` for the node type, with what it can set right itself. Raises `StepFailed` gravity_check."""
    folder, changed = unpack(machine, params["tarball"], params["sha256"])
    program = os.path.join(folder, "gravity")
    argv = [program, "check", "app.yaml", f"--profile={params['node_type']}", "--timeout=5m"]
    argv += ["--autofix"] if params["autofix"] else []
    answer = cli.run(argv, timeout=min(params["timeout"], 360), cwd=folder, log=machine.log("check"))
    if answer.code not in cli.DONE:
        raise StepFailed("gravity_check", f"gravity check: {cli.explain(answer.lines)}", answer.lines)
    return {"changed": changed, "output": answer.lines[-cli.TAIL :]}


def install_argv(program: str, params: dict[str, Any]) -> list[str]:
    """Everything that has another default from version to version is said. No token: the cluster makes its own, which
    then stands in no list of processes.
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


def install(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Make the cluster of this node, or start the one that it has (``prepared``: an image with Gravity in it, whose
    address was another). Nothing on a node whose cluster is whole.
    """
    found = look(machine, params["address"])
    if found["state"] == "member" and found["marker"]:
        return dict(_whole(machine, params), changed=False)
    if params["prepared"]:
        if found["state"] == "absent":
            raise StepFailed("gravity_absent", "the profile says that this image has Gravity in it, and it has not")
        return change_address(machine, params)
    deadline = machine.clock.now() + params["timeout"]
    if found["state"] == "moved" and found["marker"].get("address") == params["address"]:
        # It was finished here and is stopped.
        argv = [machine.program, "start", "--confirm"]
        _check(cli.run(argv, timeout=params["timeout"], log=machine.log("start")), "start")
        return dict(_whole(machine, params), changed=True)
    if found["state"] != "absent":
        leave_by_force(machine, deadline)
    machine.unmark()
    check(machine, params)
    folder = unpack(machine, params["tarball"], params["sha256"])[0]
    argv = install_argv(os.path.join(folder, "gravity"), params)
    answer = persist(machine, "install", argv, deadline=deadline, cwd=folder)
    _follow(machine, cli.operation_id(answer.text), deadline)
    return dict(_whole(machine, params), changed=True)


def adopt(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Wait until the cluster that someone else made on this node (a script) is whole, and record it."""
    found = look(machine, params["address"])
    return dict(_whole(machine, params), changed=not found["marker"])


def wait(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Wait until the cluster has every one of ``members`` (addresses) and is whole. Changes nothing.

    A worker that joined was not held up by the others: they may have joined at the same time.
    """
    return {"changed": False, "cluster": _until_whole(machine, params, params["members"]).public()}


def _until_whole(
    machine: Machine, params: dict[str, Any], addresses: Sequence[str], only_nodes: bool = False
) -> cli.Status:
    return cli.wait_until_whole(
        lambda: cli.read_status(machine.program),
        addresses,
        deadline=machine.clock.now() + params["wait"],
        patience=params["patience"],
        pause=machine.pause,
        only_nodes=only_nodes,
        clock=machine.clock,
    )


def _whole(machine: Machine, params: dict[str, Any], only_nodes: bool = False) -> dict[str, Any]:
    """Wait until this node's cluster is whole, then record it."""
    status = _until_whole(machine, params, [params["address"]], only_nodes)
    own = cli.member(status, params["address"])
    wanted = params.get("role", "")
    if own is not None and wanted and own.role != wanted:
        raise StepFailed(
            "gravity_role",
            f"Gravity made {params['address']} a {own.role}, wanted a {wanted}: the node type {own.profile} says so",
        )
    machine.mark({"address": params["address"], "node_type": params.get("node_type", ""), "role": wanted})
    return {"cluster": status.public()}


def _follow(machine: Machine, identity: str, deadline: float) -> None:
    """Poll the operation that a command launched and did not wait for; an empty ``identity``: it launched none."""
    if identity:
        cli.wait_for_operation(machine.program, identity, deadline=deadline, pause=machine.pause, clock=machine.clock)


def join(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Join this node to the cluster of ``peers``. A node of an earlier life is cleaned first."""
    found = look(machine, params["address"])
    only_nodes = params["role"] != "master"
    if found["state"] == "member" and found["marker"]:
        return dict(_whole(machine, params, only_nodes), changed=False)
    if not params["peers"]:
        raise StepFailed("gravity_no_master", "no master of the cluster is healthy")
    deadline = machine.clock.now() + params["timeout"]
    brought = machine.path(HOME + "/gravity")
    program = brought if os.access(brought, os.X_OK) else machine.program
    if found["state"] not in ("absent", "member"):
        leave_by_force(machine, deadline, program)
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
        persist(machine, "join", argv, deadline=deadline, secrets=[params["token"]])
    return dict(_whole(machine, params, only_nodes), changed=True)


def token(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Write what a node needs to join, as a healthy master tells it, into the file ``path`` (0600): ``{token,
    peers}``. Raises `StepFailed` gravity_no_master.
    """
    status = cli.read_status(machine.program)
    masters = cli.healthy_masters(status)
    if not masters or not status.token:
        raise StepFailed("gravity_no_master", "; ".join(cli.unhealthy(status)) or "the cluster tells no token")
    path = machine.path(params["path"])
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    text = json.dumps({"token": status.token, "peers": masters})
    _write_private(path, text)
    return {"changed": False, "masters": masters}


def _write_private(path: str, text: str) -> bool:
    if files.read_text(path) == text:
        return False
    files.write(path, text)
    return True


# --- another address -------------------------------------------------------------------------------------------------


def change_address(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Let the only node of a cluster use ``address``: stop, start with it. Nothing when it has it already.

    Raises `StepFailed`: gravity_version before 7.0, gravity_many_nodes, before anything changes.
    """
    wanted = params["address"]
    found = look(machine, wanted)
    if found["state"] == "absent":
        raise StepFailed("gravity_absent", "Gravity is not installed on this node")
    if found["state"] == "member":
        return dict(_whole(machine, params), changed=not found["marker"])
    has = version(machine)
    if has[:2] < RECONFIGURE_SINCE:
        told = ".".join(str(part) for part in has) or "a version that it does not tell"
        raise StepFailed("gravity_version", f"another address needs Gravity 7.0 or later; this is {told}")
    if len(found["cluster"].get("nodes", [])) > 1:
        raise StepFailed("gravity_many_nodes", f"the cluster has {len(found['cluster']['nodes'])} nodes")
    deadline = machine.clock.now() + params["timeout"]
    machine.unmark()
    argv = [machine.program, "start", f"--advertise-addr={wanted}", "--confirm"]
    answer = persist(machine, "start", argv, deadline=deadline, accept="gravity_same_address")
    if answer.code not in cli.DONE:
        # It has the address already, and was only stopped.
        argv = [machine.program, "start", "--confirm"]
        _check(cli.run(argv, timeout=deadline - machine.clock.now(), log=machine.log("start")), "start")
    _follow(machine, cli.operation_id(answer.text), deadline)
    return dict(_whole(machine, params), changed=True)


# --- fewer nodes -----------------------------------------------------------------------------------------------------


def remove(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Take the node with ``address`` out of this master's cluster; ``force`` for one that does not answer."""
    if cli.member(cli.read_status(machine.program), params["address"]) is None:
        return {"changed": False}
    deadline = machine.clock.now() + params["timeout"]
    argv = [machine.program, "remove", params["address"], *(["--force"] if params["force"] else []), "--confirm"]
    answer = persist(machine, "remove", argv, deadline=deadline, accept="gravity_gone")
    _follow(machine, cli.operation_id(answer.text), deadline)
    while cli.member(cli.read_status(machine.program), params["address"]) is not None:
        machine.rest(deadline, "gravity_timeout", f"{params['address']} is still part of the cluster")
    return {"changed": True}


def leave(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Leave the cluster, and take Gravity off this node. The last node takes the cluster with it."""
    if not machine.has_state():
        machine.unmark()
        return {"changed": False}
    deadline = machine.clock.now() + params["timeout"]
    found = look(machine, params["address"])
    alone = len(found["cluster"].get("nodes", [])) <= 1
    if params["force"] or alone or found["state"] != "member":
        leave_by_force(machine, deadline)
    else:
        machine.unmark()
        argv = [machine.program, "leave", "--confirm"]
        if persist(machine, "leave", argv, deadline=deadline, accept="gravity_gone").code not in cli.DONE:
            leave_by_force(machine, deadline)
    while machine.has_state():
        machine.rest(deadline, "gravity_leave", f"{LOCAL_STATE} is still there")
    return {"changed": True}


# --- the way in ------------------------------------------------------------------------------------------------------


def _kubectl(machine: Machine, *words: str, stdin: str | None = None, timeout: float = 60) -> ProgramResult:
    return cli.run(
        [machine.program, "exec", *(["-i"] if stdin is not None else []), "kubectl", *words],
        timeout=timeout,
        data=stdin,
    )


def account() -> str:
    """Objects of an administrator's account, with a token that is its own secret: every Kubernetes has that."""
    named = {"name": ACCOUNT, "namespace": NAMESPACE}
    items = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": ACCOUNT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", **named}],
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/service-account-token",
            "metadata": {
                "name": SECRET,
                "namespace": NAMESPACE,
                "annotations": {"kubernetes.io/service-account.name": ACCOUNT},
            },
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def kubeconfig(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Write a kubeconfig of the administrator's account to KUBECONFIG on this master (0600)."""
    deadline = machine.clock.now() + params["wait"]
    while (applied := _kubectl(machine, "apply", "--filename=-", stdin=account())).code != 0:
        told = f"the account cannot be made: {cli.explain(applied.lines)}"
        machine.rest(deadline, "gravity_kubeconfig", told)
    data = _secret(machine, deadline)
    token_ = base64.b64decode(data["token"]).decode()
    text = json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "gravity",
                    "cluster": {
                        "certificate-authority-data": data["ca.crt"],
                        "server": f"https://{params['address']}:6443",
                    },
                }
            ],
            "users": [{"name": ACCOUNT, "user": {"token": token_}}],
            "contexts": [{"name": "gravity", "context": {"cluster": "gravity", "user": ACCOUNT}}],
            "current-context": "gravity",
        }
    )
    os.makedirs(machine.path(HOME), mode=0o700, exist_ok=True)
    return {"changed": _write_private(machine.path(KUBECONFIG), text), "path": KUBECONFIG}


def _secret(machine: Machine, deadline: float) -> dict[str, str]:
    while True:
        answer = _kubectl(machine, "--namespace", NAMESPACE, "get", "secret", SECRET, "--output=json")
        try:
            data = dict(json.loads(answer.stdout).get("data") or {}) if answer.code == 0 else {}
        except ValueError:
            data = {}
        if data.get("token") and data.get("ca.crt"):
            return data
        machine.rest(deadline, "gravity_kubeconfig", "Kubernetes gave the account no token in time")


def auth_gateway(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Let the cluster tell ``public_addresses`` to those who log in with tsh; its controllers start anew then."""
    wanted = list(params["public_addresses"])
    shown = cli.run([machine.program, "resource", "get", "authgateway", "--format=json"], timeout=60)
    if shown.code == 0 and _public_addresses(shown.stdout) == wanted:
        return {"changed": False}
    resource = {"kind": "authgateway", "version": "v1", "spec": {"public_addr": wanted}}
    folder = machine.path(RUNTIME)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "authgateway.json")
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(resource))
    deadline = machine.clock.now() + params["timeout"]
    try:
        argv = [machine.program, "resource", "create", "--force", path]
        persist(machine, "resource", argv, deadline=deadline)
    finally:
        os.unlink(path)
    return dict(_whole(machine, params), changed=True)


def _public_addresses(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        return []
    one = found[0] if isinstance(found, list) and found else found
    return list((one.get("spec") or {}).get("public_addr") or []) if isinstance(one, dict) else []


# --- another version, a report ---------------------------------------------------------------------------------------


def upgrade(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Upload the tarball's application to the cluster and upgrade to it. Nothing when the cluster runs it."""
    status = cli.read_status(machine.program)
    if params["version"] and status.version == params["version"] and not status.operations:
        return {"changed": False, "cluster": status.public()}
    missing = cli.unhealthy(status)
    if missing and not any(one.get("type") == "operation_update" for one in status.operations):
        raise StepFailed("gravity_degraded", f"not upgraded: {'; '.join(missing)}")
    deadline = machine.clock.now() + params["timeout"]
    folder = unpack(machine, params["tarball"], params["sha256"])[0]
    running = next((one["id"] for one in status.operations if one.get("type") == "operation_update"), "")
    if not running:
        persist(machine, "upload", [os.path.join(folder, "upload")], deadline=deadline, cwd=folder)
        argv = [os.path.join(folder, "gravity"), "upgrade"]
        running = cli.operation_id(persist(machine, "upgrade", argv, deadline=deadline, cwd=folder).text)
    _follow(machine, running, deadline)
    return dict(_whole(machine, params), changed=True)


def report(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """`gravity report` into the file ``path`` on this node."""
    path = machine.path(params["path"])
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    answer = cli.run([machine.program, "report", f"--file={path}"], timeout=params["timeout"])
    if answer.code != 0 or not os.path.exists(path):
        raise StepFailed("gravity_report", f"gravity report: {cli.explain(answer.lines)}", answer.lines)
    os.chmod(path, 0o600)
    return {"changed": True, "path": params["path"]}


ACTIONS: dict[str, Callable[[Machine, dict[str, Any]], dict[str, Any]]] = {
    "check": check,
    "install": install,
    "adopt": adopt,
    "wait": wait,
    "join": join,
    "token": token,
    "change_address": change_address,
    "remove": remove,
    "leave": leave,
    "kubeconfig": kubeconfig,
    "auth_gateway": auth_gateway,
    "upgrade": upgrade,
    "report": report,
}
_READING = ("check", "token", "wait")


def perform(action: str, params: dict[str, Any], machine: Machine, only_check: bool = False) -> dict[str, Any]:
    """One action of the module on this node. ``only_check`` says from the node's state what would be done."""
    if action == "look":
        return dict(look(machine, params["address"]), changed=False)
    if only_check:
        found = look(machine, params["address"])
        done = {"leave": found["state"] == "absent", "report": False, "upgrade": False}
        return {"changed": action not in _READING and not done.get(action, found["state"] == "member")}
    return ACTIONS[action](machine, params)
