"""Give access to a cluster of Gravity: a kubeconfig, login addresses, and Gravity's own report."""

from __future__ import annotations

import base64
import json
import os
import ssl
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.gravity import cli, status
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import HOME, KUBECONFIG, GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import RUNTIME, StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.net import bracket
from ansible_collections.devenv.lab.plugins.module_utils.node.program import ProgramResult

ACCOUNT = "devenv-admin"
SECRET = ACCOUNT + "-token"
NAMESPACE = "kube-system"
# Port of the proxy of tsh on each master.
PROXY_PORT = 32009
_IDENTITY = {"name": ACCOUNT, "namespace": NAMESPACE}
# An administrator's account with a token in a Secret, which every version of Kubernetes supports.
OBJECTS: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _IDENTITY},
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", **_IDENTITY}],
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


def _kubectl(machine: GravityMachine, *words: str, stdin: str | None = None) -> ProgramResult:
    interactive = ["-i"] if stdin is not None else []
    return cli.run([machine.program, "exec", *interactive, "kubectl", *words], timeout=60, data=stdin)


def kubeconfig(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Write a kubeconfig of the administrator's account to KUBECONFIG on this master (0600)."""
    deadline = machine.now() + params["wait"]
    objects = json.dumps({"apiVersion": "v1", "kind": "List", "items": OBJECTS})
    cause = ""

    def is_applied() -> bool:
        nonlocal cause
        result = _kubectl(machine, "apply", "--filename=-", stdin=objects)
        cause = cli.explain(result.lines)
        return result.code == 0

    def token() -> dict[str, str] | None:
        result = _kubectl(machine, "--namespace", NAMESPACE, "get", "secret", SECRET, "--output=json")
        data = dict(result.json({}).get("data") or {}) if result.code == 0 else {}
        return data if data.get("token") and data.get("ca.crt") else None

    reason = "gravity_kubeconfig"
    machine.until(is_applied, deadline, reason, lambda: f"the account cannot be created: {cause}")
    data = machine.until(token, deadline, reason, lambda: "Kubernetes issued no token for the account in time")
    server = f"https://{bracket(params['address'])}:6443"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "gravity", "cluster": {"certificate-authority-data": data["ca.crt"], "server": server}}],
        "users": [{"name": ACCOUNT, "user": {"token": base64.b64decode(data["token"]).decode()}}],
        "contexts": [{"name": "gravity", "context": {"cluster": "gravity", "user": ACCOUNT}}],
        "current-context": "gravity",
    }
    os.makedirs(machine.path(HOME), mode=0o700, exist_ok=True)
    return {"changed": files.write_if_changed(machine.path(KUBECONFIG), json.dumps(config)), "path": KUBECONFIG}


def auth_gateway(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Set the addresses that the cluster announces to tsh clients. The cluster's controllers then restart."""
    desired = list(params["public_addresses"])
    shown = cli.run([machine.program, "resource", "get", "authgateway", "--format=json"], timeout=60)
    if shown.code == 0 and _public_addresses(shown.json()) == desired:
        return {"changed": False}
    path = machine.path(RUNTIME + "/authgateway.json")
    files.write_json(path, {"kind": "authgateway", "version": "v1", "spec": {"public_addr": desired}})
    deadline = machine.now() + params["timeout"]
    try:
        cli.persist(machine, "resource", [machine.program, "resource", "create", "--force", path], deadline=deadline)
    finally:
        os.unlink(path)
    return dict(status.finish(machine, params), changed=True)


def certificate(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Return the ``certificate`` (PEM) of the proxy for tsh on this master. Changes nothing."""
    try:
        pem = ssl.get_server_certificate((params["address"], PROXY_PORT), timeout=20)
    except (OSError, ValueError) as error:
        raise StepFailed("gravity_tsh", f"{params['address']}:{PROXY_PORT} presents no certificate: {error}") from None
    return {"changed": False, "certificate": pem}


def _public_addresses(document: Any) -> list[str]:
    resource = document[0] if isinstance(document, list) and document else document
    return list((resource.get("spec") or {}).get("public_addr") or []) if isinstance(resource, dict) else []


def report(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Write `gravity report` to the file ``path`` on this node."""
    path = machine.path(params["path"])
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    result = cli.run([machine.program, "report", f"--file={path}"], timeout=params["timeout"])
    if result.code != 0 or not os.path.exists(path):
        raise cli.failure("report", result, "gravity_report")
    os.chmod(path, 0o600)
    return {"changed": True, "path": params["path"]}
