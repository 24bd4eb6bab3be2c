"""Make this node a node of a cluster with kubeadm, or take Kubernetes off it: idempotent by the node's real state."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import address, api
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.etcd_traffic import EtcdTraffic
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.run import Configuration, kubeadm
from ansible_collections.devenv.lab.plugins.module_utils.node import background, kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import TAIL, Machine, StepFailed

# What kubeadm and systemd leave behind after `kubeadm reset` of a half-made node.
LEFT = ("/etc/kubernetes/manifests", "/etc/kubernetes/pki", "/var/lib/etcd", "/var/lib/kubelet", "/var/log/pods")

# A control plane node joins in two parts, by the phases that each leaves out: etcd, then all that needs its own etcd.
# kubeadm by itself starts the API server first, which then asks for etcd at ever longer intervals.
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


class RestartKubeletEarly(background.BackgroundTask):
    """Lets the kubelet of a joining control plane node ask for its certificate as soon as it can get one.

    kubeadm lets it ask the API server of its own node, which runs only after etcd has joined; meanwhile kubelet asks in
    vain and each time waits twice as long (client-go's certificate manager: 2, 4, 8 s). Started again once the API
    server is ready, it asks at once. Containers do not notice.
    """

    def __init__(self, machine: Machine, pause: float = 0.2) -> None:
        super().__init__(pause)
        self._machine = machine

    def _work(self) -> None:
        machine = self._machine
        while not self._over.wait(self._pause):
            if machine.exists(kubernetes.KUBELET_CERTIFICATE):
                return
            host = kubernetes.apiserver_address(machine.root)
            if host and machine.http_ok(host, 6443, api.JOINED, ca=machine.path(kubernetes.CA), timeout=2):
                if not machine.exists(kubernetes.KUBELET_CERTIFICATE):
                    machine.run(["systemctl", "restart", "kubelet.service"])
                return


class _Part(NamedTuple):
    """One run of kubeadm: its log's name, phases that it leaves out, what is done meanwhile."""

    name: str
    skipped: tuple[str, ...] = ()
    meanwhile: Callable[[Machine], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


def _parts(action: str, role: str) -> list[_Part]:
    if action == "join" and role == "control_plane":
        return [_Part("join-etcd", JOIN_ETCD, EtcdTraffic), _Part("join", JOIN_REST, RestartKubeletEarly)]
    return [_Part(action)]


def reason_of(action: str, lines: Sequence[str]) -> str:
    """Return the reason id of a failed ``action`` with this output."""
    text = "\n".join(lines)
    if "[preflight] Some fatal errors occurred" in text or "error execution phase preflight" in text:
        return "kubernetes_preflight"
    if "control-plane-join/etcd" in text or ("etcd-join" in text and "error execution phase" in text):
        return "kubernetes_etcd"
    return f"kubernetes_{action}_failed"


def create(machine: Machine, action: str, params: dict[str, Any], role: str) -> dict[str, Any]:
    """Run `kubeadm init` or `join`, once: not on a node that is what it should be, from the start on a half-made one.

    A node that is to join is also made from the start when it has lost files, or belongs to a cluster that is no more
    (its authority is not ``params["ca_hash"]``): the others have all that it needs.
    Raises `StepFailed`; the node is then partial, and the next call starts from the beginning.
    """
    found = kubernetes.state(machine.root)
    ca_hash = kubernetes.ca_hash(machine.root)
    is_stranger = action == "join" and bool(params["ca_hash"]) and ca_hash not in ("", params["ca_hash"])
    if found["state"] == role and not is_stranger:
        return {"changed": False}
    if found["state"] not in ("partial", "absent") and not is_stranger:
        raise StepFailed(
            "kubernetes_role", "the node is a {} already and cannot become a {}".format(found["state"], role)
        )
    if found["marker"] and action != "join":
        raise StepFailed(
            "kubernetes_damaged",
            "Kubernetes was whole on this node and has lost {}".format(", ".join(found["missing"])),
        )
    record = {"node": params["node"], "action": action}
    if found["state"] != "absent":
        if action == "init" and is_complete_without_marker(machine, params["node"]):
            kubernetes.mark(role, record, machine.root)
            return {"changed": True, "adopted": True}
        clean(machine, action)
    output: list[str] = []
    with Configuration(machine, action, params["config"], params["patches"]) as config:
        words = [action]
        if action == "init":
            words += ["--skip-token-print", "--skip-certificate-key-print"]
            words += ["--upload-certs"] if params["upload_certs"] else []
        deadline = machine.now() + params["timeout"]
        for part in _parts(action, role):
            with part.meanwhile(machine):
                output = kubeadm(
                    machine,
                    [*words, *(["--skip-phases", ",".join(part.skipped)] if part.skipped else [])],
                    name=part.name,
                    timeout=max(1, deadline - machine.now()),
                    reason=lambda lines: reason_of(action, lines),
                    config=config,
                )
    kubernetes.mark(role, record, machine.root)
    return {"changed": True, "output": output[-TAIL:]}


def is_complete_without_marker(machine: Machine, node: str) -> bool:
    """Return whether a node without the marker is a whole control plane all the same: killed after kubeadm's last step,
    or the marker was lost. The add-ons are what `kubeadm init` makes last.
    """
    if kubernetes.missing("control_plane", machine.root) or not api.apiserver_ready(machine):
        return False
    wanted = ["node/" + node, "daemonset.apps/kube-proxy", "deployment.apps/coredns"]
    return api.kubectl(machine, "-n", "kube-system", "get", "-o", "name", *wanted).code == 0


def reset(machine: Machine) -> dict[str, Any]:
    """Take Kubernetes off this node; nothing on a node without it."""
    if kubernetes.state(machine.root)["state"] == "absent":
        return {"changed": False}
    return {"changed": True, "output": clean(machine, "reset")[-TAIL:]}


def clean(machine: Machine, action: str) -> list[str]:
    """Run `kubeadm reset` and remove what it leaves; CNI configuration and images stay. Raises `StepFailed`.

    For ``init`` the half-made cluster's own kubeconfig goes first: there is no cluster to leave, and kubeadm would wait
    for one.
    """
    kubernetes.unmark(machine.root)
    own = ("/etc/kubernetes/admin.conf", "/etc/kubernetes/super-admin.conf") if action == "init" else ()
    for path in (address.RECORD, *own):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(machine.path(path))
    words = ["reset", "--force", "--cleanup-tmp-dir", "--cri-socket=unix:///run/containerd/containerd.sock"]
    lines = kubeadm(machine, words, name="reset", timeout=180, reason="kubernetes_reset_failed")
    for folder in LEFT:
        _empty(machine.path(folder))
    left = kubernetes.traces(machine.root)
    if left:
        raise StepFailed("kubernetes_reset_failed", "kubeadm reset left {}".format(", ".join(left)), lines[-TAIL:])
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
