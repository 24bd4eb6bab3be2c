"""Create or join a cluster with kubeadm, or remove Kubernetes from this node: idempotent by the node's actual state."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import address, api, etcd_traffic
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.run import Configuration, in_background, kubeadm
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import TAIL, Machine, StepFailed

# Folders that `kubeadm reset` of an unfinished node does not empty.
LEFTOVERS = ("/etc/kubernetes/manifests", "/etc/kubernetes/pki", "/var/lib/etcd", "/var/lib/kubelet", "/var/log/pods")

# The phases that each of two runs of kubeadm skips: a control plane node first joins etcd, then does everything that
# needs its own etcd. kubeadm alone starts the API server first, which then retries etcd at ever longer intervals.
JOIN_ETCD = (
    "control-plane-prepare/control-plane",
    "kubelet-wait-bootstrap",
    "control-plane-join",
    "wait-control-plane",
)
JOIN_REST = (
    "preflight",
    "control-plane-prepare/download-certs",
    "control-plane-prepare/certs",
    "control-plane-prepare/kubeconfig",
    "check-etcd",
    "kubelet-start",
    "etcd-join",
)


class _Part(NamedTuple):
    """One run of kubeadm: the name of its log, skipped phases, and work to do at the same time."""

    name: str
    skipped: tuple[str, ...] = ()
    meanwhile: Callable[[Machine, threading.Event], None] = lambda _machine, _over: None


def restart_kubelet_early(machine: Machine, over: threading.Event, pause: float = 0.2) -> None:
    """Restart the kubelet of a joining control plane node as soon as it can get its certificate.

    kubeadm points kubelet to the API server of its own node, which runs only after etcd has joined; meanwhile kubelet
    doubles the time between its attempts (client-go's certificate manager: 2, 4, 8 s). A restarted one tries at once.
    Containers are not affected.
    """
    while not over.wait(pause):
        if machine.exists(kubernetes.KUBELET_CERTIFICATE):
            return
        host = kubernetes.apiserver_address(machine.root)
        if host and machine.http_ok(host, 6443, api.JOINED, ca=machine.path(kubernetes.CA), timeout=2):
            if not machine.exists(kubernetes.KUBELET_CERTIFICATE):
                machine.run(["systemctl", "restart", "kubelet.service"])
            return


def reason_of(action: str, lines: Sequence[str]) -> str:
    """Return the reason id of a failed ``action`` with this output."""
    text = "\n".join(lines)
    if "[preflight] Some fatal errors occurred" in text or "error execution phase preflight" in text:
        return "kubernetes_preflight"
    if "control-plane-join/etcd" in text or ("etcd-join" in text and "error execution phase" in text):
        return "kubernetes_etcd"
    return f"kubernetes_{action}_failed"


def create(machine: Machine, action: str, params: dict[str, Any], role: str) -> dict[str, Any]:
    """Run `kubeadm init` or `join` once: not on a finished node, and after a reset on an unfinished one.

    A node is also reset before a join if it has lost files or belongs to another cluster (its CA is not
    ``params["ca_hash"]``), because the other nodes have everything that it needs.
    Raises `StepFailed`; the node is then partial, and the next call starts over.
    """
    before = kubernetes.state(machine.root)
    ca_hash = kubernetes.ca_hash(machine.root)
    is_stranger = action == "join" and bool(params["ca_hash"]) and ca_hash not in ("", params["ca_hash"])
    if before["state"] == role and not is_stranger:
        return {"changed": False}
    if before["state"] not in ("partial", "absent") and not is_stranger:
        raise StepFailed("kubernetes_role", f"the node is already a {before['state']} and cannot become a {role}")
    if before["marker"] and action != "join":
        missing = ", ".join(before["missing"])
        raise StepFailed("kubernetes_damaged", f"Kubernetes was complete on this node and has lost {missing}")
    record = {"node": params["node"], "action": action}
    if before["state"] != "absent":
        if action == "init" and is_complete_without_marker(machine, params["node"]):
            kubernetes.mark(role, record, machine.root)
            return {"changed": True, "adopted": True}
        clean(machine, action)
    words = [action]
    if action == "init":
        words += ["--skip-token-print", "--skip-certificate-key-print"]
        words += ["--upload-certs"] if params["upload_certs"] else []
    parts = [_Part(action)]
    if action == "join" and role == "control_plane":
        parts = [
            _Part("join-etcd", JOIN_ETCD, etcd_traffic.keep_busy),
            _Part("join", JOIN_REST, restart_kubelet_early),
        ]
    output: list[str] = []
    deadline = machine.now() + params["timeout"]
    with Configuration(machine, action, params["config"], params["patches"]) as config:
        for part in parts:
            skip = ["--skip-phases", ",".join(part.skipped)] if part.skipped else []
            with in_background(functools.partial(part.meanwhile, machine)):
                output = kubeadm(
                    machine,
                    [*words, *skip],
                    name=part.name,
                    timeout=max(1, deadline - machine.now()),
                    reason=functools.partial(reason_of, action),
                    config=config,
                )
    kubernetes.mark(role, record, machine.root)
    return {"changed": True, "output": output[-TAIL:]}


def is_complete_without_marker(machine: Machine, node: str) -> bool:
    """Return whether a node without the marker is a complete control plane, because devenv was killed after kubeadm's
    last step or the marker was lost. The add-ons are what `kubeadm init` creates last.
    """
    if kubernetes.missing("control_plane", machine.root) or not api.apiserver_ready(machine):
        return False
    objects = ["node/" + node, "daemonset.apps/kube-proxy", "deployment.apps/coredns"]
    return api.kubectl(machine, "-n", "kube-system", "get", "-o", "name", *objects).code == 0


def reset(machine: Machine) -> dict[str, Any]:
    """Remove Kubernetes from this node; changes nothing if there is none."""
    if kubernetes.state(machine.root)["state"] == "absent":
        return {"changed": False}
    return {"changed": True, "output": clean(machine, "reset")[-TAIL:]}


def clean(machine: Machine, action: str) -> list[str]:
    """Run `kubeadm reset` and remove what it leaves; CNI configuration and images stay. Raises `StepFailed`.

    For ``init``, the kubeconfigs of the unfinished cluster are removed first: there is no cluster to leave, and kubeadm
    would wait for one.
    """
    kubernetes.unmark(machine.root)
    kubeconfigs = (kubernetes.ADMIN, "/etc/kubernetes/super-admin.conf") if action == "init" else ()
    for path in (address.RECORD, *kubeconfigs):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(machine.path(path))
    words = ["reset", "--force", "--cleanup-tmp-dir", "--cri-socket=unix:///run/containerd/containerd.sock"]
    lines = kubeadm(machine, words, name="reset", timeout=180, reason="kubernetes_reset_failed")
    for folder in LEFTOVERS:
        _empty(machine.path(folder))
    remaining = kubernetes.traces(machine.root)
    if remaining:
        text = f"kubeadm reset did not remove {', '.join(remaining)}"
        raise StepFailed("kubernetes_reset_failed", text, lines[-TAIL:])
    return lines


def _empty(folder: str) -> None:
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if os.path.ismount(path):
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
