"""Tell what state Kubernetes is in on this node, from its files.

The layout of /etc/kubernetes and /var/lib/kubelet is kubeadm's
(https://kubernetes.io/docs/reference/setup-tools/kubeadm/implementation-details/).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import certificate, files, net, observe

# Written only after kubeadm ended with 0, removed before it starts: without it, no state is a finished one.
MARKER = "/var/lib/devenv/kubernetes.json"

CA = "/etc/kubernetes/pki/ca.crt"
ADMIN = "/etc/kubernetes/admin.conf"
KUBELET = "/etc/kubernetes/kubelet.conf"
ETCD_MANIFEST = "/etc/kubernetes/manifests/etcd.yaml"
# What this node shows etcd as a client: authority, certificate, key.
ETCD_CA = "/etc/kubernetes/pki/etcd/ca.crt"
ETCD_CERTIFICATE = "/etc/kubernetes/pki/etcd/healthcheck-client.crt"
ETCD_KEY = "/etc/kubernetes/pki/etcd/healthcheck-client.key"
KUBELET_CERTIFICATE = "/var/lib/kubelet/pki/kubelet-client-current.pem"
NODE_FILES = (
    KUBELET,
    CA,
    "/var/lib/kubelet/config.yaml",
    KUBELET_CERTIFICATE,
)
CONTROL_PLANE_FILES = (
    *NODE_FILES,
    ADMIN,
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
    "/etc/kubernetes/manifests/kube-controller-manager.yaml",
    "/etc/kubernetes/manifests/kube-scheduler.yaml",
    "/etc/kubernetes/pki/apiserver.crt",
    "/etc/kubernetes/pki/ca.key",
    "/etc/kubernetes/pki/sa.key",
    "/var/lib/etcd/member",
)
TRACES = (
    *CONTROL_PLANE_FILES,
    "/etc/kubernetes/super-admin.conf",
    "/etc/kubernetes/bootstrap-kubelet.conf",
    ETCD_MANIFEST,
    ETCD_CA,
    "/var/lib/kubelet/kubeadm-flags.env",
)
CERTIFICATES = (
    CA,
    "/etc/kubernetes/pki/apiserver.crt",
    "/etc/kubernetes/pki/apiserver-kubelet-client.crt",
    "/etc/kubernetes/pki/apiserver-etcd-client.crt",
    "/etc/kubernetes/pki/front-proxy-client.crt",
    "/etc/kubernetes/pki/etcd/server.crt",
    "/etc/kubernetes/pki/etcd/peer.crt",
    KUBELET_CERTIFICATE,
)


def missing(role: str, root: str = "/") -> list[str]:
    """Return the files that a finished node of ``role`` (control_plane or worker) has and this one lacks."""
    wanted = CONTROL_PLANE_FILES if role == "control_plane" else NODE_FILES
    return [path for path in wanted if not os.path.exists(files.under(root, path))]


def traces(root: str = "/") -> list[str]:
    """Return the files of Kubernetes that are there, finished or not."""
    return [path for path in TRACES if os.path.lexists(files.under(root, path))]


def state(root: str = "/") -> dict[str, Any]:
    """Return ``{state, marker, missing}``; state is absent, partial, control_plane or worker.

    partial without a marker: kubeadm was begun here and did not end well; nothing of it is worth keeping.
    partial with a marker: the node was finished and has lost the files in ``missing``; that is damage, not a killed
    run.
    """
    marker = files.read_json(files.under(root, MARKER))
    role = str(marker.get("role", ""))
    lacking = missing(role, root) if role in ("control_plane", "worker") else []
    if marker:
        return {"state": "partial" if lacking or not role else role, "marker": marker, "missing": lacking}
    return {"state": "partial" if traces(root) else "absent", "marker": {}, "missing": []}


def mark(role: str, details: dict[str, Any], root: str = "/") -> None:
    """Record that kubeadm ended with 0 on this node."""
    files.write_json(files.under(root, MARKER), dict(details, role=role))


def unmark(root: str = "/") -> None:
    """Remove that record: something begins that may not end."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(files.under(root, MARKER))


def certificate_ends(root: str = "/") -> dict[str, str]:
    """End of validity by path, of the certificates that are there."""
    ends = {path: certificate.parse(files.read_text(files.under(root, path))).get("end", "") for path in CERTIFICATES}
    return {path: end for path, end in ends.items() if end}


def ca_hash(root: str = "/") -> str:
    """Return ``sha256:...`` of the cluster CA's public key (public information), "" when there is no CA here."""
    return certificate.parse(files.read_text(files.under(root, CA))).get("key_hash", "")


def kubeconfig_digest(root: str = "/") -> str:
    """Return ``sha256:...`` of the administrator's kubeconfig, "" when there is none here."""
    found = observe.file_state(ADMIN, root)
    return "sha256:" + str(found["sha256"]) if found else ""


def etcd_endpoint(root: str = "/") -> str:
    """Return the URL at which this node's own etcd answers, from its manifest: ``https://[::1]:2379`` where IPv6 comes
    first.
    """
    manifest = files.read_text(files.under(root, ETCD_MANIFEST))
    match = re.search(r"--listen-client-urls=([^,\s]+)", manifest)
    return match.group(1) if match else "https://127.0.0.1:2379"


def apiserver_address(root: str = "/") -> str | None:
    """Return the address that this node's apiserver advertises, from its manifest."""
    manifest = files.read_text(files.under(root, "/etc/kubernetes/manifests/kube-apiserver.yaml"))
    match = re.search(r"--advertise-address=(\S+)", manifest)
    return match.group(1).strip("\"'") if match else None


def etcdctl(*words: str, root: str = "/") -> list[str]:
    """Return argv of etcdctl on this node's own member."""
    keys = {"cacert": ETCD_CA, "cert": ETCD_CERTIFICATE, "key": ETCD_KEY}
    flags = [f"--{name}={files.under(root, path)}" for name, path in keys.items()]
    return ["etcdctl", *flags, f"--endpoints={etcd_endpoint(root)}", *words]


def kubelet_healthy(http_ok: Callable[..., bool] = net.http_ok) -> bool:
    """Return whether kubelet answers its health check."""
    return http_ok("127.0.0.1", 10248, "/healthz")


def apiserver_ready(root: str = "/", http_ok: Callable[..., bool] = net.http_ok) -> bool:
    """Return whether this node's own API server answers its readiness check."""
    address = apiserver_address(root)
    return bool(address) and http_ok(str(address), 6443, "/readyz", ca=files.under(root, CA))
