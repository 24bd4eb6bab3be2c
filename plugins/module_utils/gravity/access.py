"""Give access to a cluster of Gravity: a kubeconfig, addresses for logins, and its own report."""

from __future__ import annotations

import base64
import json
import os
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


def _kubectl(machine: GravityMachine, *words: str, stdin: str | None = None, timeout: float = 60) -> ProgramResult:
    return cli.run(
        [machine.program, "exec", *(["-i"] if stdin is not None else []), "kubectl", *words],
        timeout=timeout,
        data=stdin,
    )


def account() -> str:
    """Return the objects of an administrator's account, with a token in a Secret: every Kubernetes has that."""
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


def kubeconfig(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Write a kubeconfig of the administrator's account to KUBECONFIG on this master (0600)."""
    deadline = machine.now() + params["wait"]
    why = ""

    def is_made() -> bool:
        nonlocal why
        applied = _kubectl(machine, "apply", "--filename=-", stdin=account())
        why = cli.explain(applied.lines)
        return applied.code == 0

    machine.until(is_made, deadline, "gravity_kubeconfig", lambda: f"the account cannot be made: {why}")
    text = "Kubernetes gave the account no token in time"
    data = machine.until(lambda: _secret(machine), deadline, "gravity_kubeconfig", lambda: text)
    token = base64.b64decode(data["token"]).decode()
    server = f"https://{bracket(params['address'])}:6443"
    cluster = {"certificate-authority-data": data["ca.crt"], "server": server}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "gravity", "cluster": cluster}],
        "users": [{"name": ACCOUNT, "user": {"token": token}}],
        "contexts": [{"name": "gravity", "context": {"cluster": "gravity", "user": ACCOUNT}}],
        "current-context": "gravity",
    }
    os.makedirs(machine.path(HOME), mode=0o700, exist_ok=True)
    return {"changed": files.write_if_changed(machine.path(KUBECONFIG), json.dumps(config)), "path": KUBECONFIG}


def _secret(machine: GravityMachine) -> dict[str, str] | None:
    answer = _kubectl(machine, "--namespace", NAMESPACE, "get", "secret", SECRET, "--output=json")
    data = dict(answer.json({}).get("data") or {}) if answer.code == 0 else {}
    return data if data.get("token") and data.get("ca.crt") else None


def auth_gateway(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Let the cluster tell ``public_addresses`` to those who log in with tsh; its controllers restart then."""
    wanted = list(params["public_addresses"])
    shown = cli.run([machine.program, "resource", "get", "authgateway", "--format=json"], timeout=60)
    if shown.code == 0 and _public_addresses(shown.json()) == wanted:
        return {"changed": False}
    resource = {"kind": "authgateway", "version": "v1", "spec": {"public_addr": wanted}}
    path = machine.path(RUNTIME + "/authgateway.json")
    files.write_json(path, resource)
    deadline = machine.now() + params["timeout"]
    try:
        argv = [machine.program, "resource", "create", "--force", path]
        cli.persist(machine, "resource", argv, deadline=deadline)
    finally:
        os.unlink(path)
    return dict(status.finish(machine, params), changed=True)


def _public_addresses(found: Any) -> list[str]:
    one = found[0] if isinstance(found, list) and found else found
    return list((one.get("spec") or {}).get("public_addr") or []) if isinstance(one, dict) else []


def report(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Write `gravity report` into the file ``path`` on this node."""
    path = machine.path(params["path"])
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    answer = cli.run([machine.program, "report", f"--file={path}"], timeout=params["timeout"])
    if answer.code != 0 or not os.path.exists(path):
        raise StepFailed("gravity_report", f"gravity report: {cli.explain(answer.lines)}", answer.lines)
    os.chmod(path, 0o600)
    return {"changed": True, "path": params["path"]}
