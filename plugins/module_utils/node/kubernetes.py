"""Determine the state of Kubernetes on this node from its files.

kubeadm defines the layout of /etc/kubernetes and /var/lib/kubelet
(https://kubernetes.io/docs/reference/setup-tools/kubeadm/implementation-details/).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import certificate, files, net

# Written after kubeadm succeeded, removed before it starts: a node without it is not finished.
MARKER = "/var/lib/devenv/kubernetes.json"

CA = "/etc/kubernetes/pki/ca.crt"
ADMIN = "/etc/kubernetes/admin.conf"
KUBELET = "/etc/kubernetes/kubelet.conf"
ETCD_MANIFEST = "/etc/kubernetes/manifests/etcd.yaml"
APISERVER_MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
# Credentials of this node as a client of etcd.
ETCD_CA = "/etc/kubernetes/pki/etcd/ca.crt"
ETCD_CERTIFICATE = "/etc/kubernetes/pki/etcd/healthcheck-client.crt"
ETCD_KEY = "/etc/kubernetes/pki/etcd/healthcheck-client.key"
KUBELET_CERTIFICATE = "/var/lib/kubelet/pki/kubelet-client-current.pem"
NODE_FILES = (KUBELET, CA, "/var/lib/kubelet/config.yaml", KUBELET_CERTIFICATE)
CONTROL_PLANE_FILES = (
    *NODE_FILES,
    ADMIN,
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    APISERVER_MANIFEST,
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
_FILES = {"control_plane": CONTROL_PLANE_FILES, "worker": NODE_FILES}


def missing(role: str, root: str = "/") -> list[str]:
    """Return the files of a finished node of ``role`` (control_plane or worker) that this node lacks."""
    return [path for path in _FILES[role] if not os.path.exists(files.under(root, path))]


def traces(root: str = "/") -> list[str]:
    """Return the existing files of Kubernetes, finished or not."""
    return [path for path in TRACES if os.path.lexists(files.under(root, path))]


def state(root: str = "/") -> dict[str, Any]:
    """Return ``{state, marker, missing}``; state is absent, partial, control_plane or worker.

    A partial node without a marker was never finished, and its files are worthless. One with a marker was finished and
    has lost the files in ``missing``, which is damage and not the trace of a killed run.
    """
    marker = files.read_json(files.under(root, MARKER))
    if not marker:
        return {"state": "partial" if traces(root) else "absent", "marker": {}, "missing": []}
    role = str(marker.get("role", ""))
    lost = missing(role, root) if role in _FILES else []
    return {"state": "partial" if lost or not role else role, "marker": marker, "missing": lost}


def mark(role: str, details: dict[str, Any], root: str = "/") -> None:
    """Record that kubeadm succeeded on this node."""
    files.write_json(files.under(root, MARKER), dict(details, role=role))


def unmark(root: str = "/") -> None:
    """Remove the record, before a change that may be interrupted."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(files.under(root, MARKER))


def is_registered(root: str = "/", http_status: Callable[..., int | None] = net.http_status) -> bool | None:
    """Return whether the cluster has the Node object of this node, None if its API did not say."""
    name = files.read_json(files.under(root, MARKER)).get("node", "")
    match = re.search(r"server: https://(.+):(\d+)$", files.read_text(files.under(root, KUBELET)), re.MULTILINE)
    if not name or match is None:
        return None
    credentials = {"ca": files.under(root, CA), "certificate": files.under(root, KUBELET_CERTIFICATE)}
    path = f"/api/v1/nodes/{name}"
    status = http_status(match.group(1).strip("[]"), int(match.group(2)), path, timeout=1, **credentials)
    return {200: True, 404: False}.get(status or 0)


def certificate_ends(root: str = "/", paths: Sequence[str] = CERTIFICATES) -> dict[str, str]:
    """Return the expiry of each existing certificate by path."""
    ends = {path: certificate.parse(files.read_text(files.under(root, path))).get("end", "") for path in paths}
    return {path: end for path, end in ends.items() if end}


def ca_hash(root: str = "/") -> str:
    """Return ``sha256:...`` of the cluster CA's public key, "" if there is no CA on this node."""
    return certificate.parse(files.read_text(files.under(root, CA))).get("key_hash", "")


def kubeconfig_digest(root: str = "/") -> str:
    """Return ``sha256:...`` of the administrator's kubeconfig, "" if there is none on this node."""
    digest = files.digest(files.under(root, ADMIN))
    return digest and "sha256:" + digest


def etcd_endpoint(root: str = "/") -> str:
    """Return the URL of this node's own etcd from its manifest: ``https://[::1]:2379`` if IPv6 is first."""
    manifest = files.read_text(files.under(root, ETCD_MANIFEST))
    match = re.search(r"--listen-client-urls=([^,\s]+)", manifest)
    return match.group(1) if match else "https://127.0.0.1:2379"


def apiserver_address(root: str = "/") -> str | None:
    """Return the address that this node's API server advertises, from its manifest."""
    manifest = files.read_text(files.under(root, APISERVER_MANIFEST))
    match = re.search(r"--advertise-address=(\S+)", manifest)
    return match.group(1).strip("\"'") if match else None


def etcdctl(*words: str, root: str = "/") -> list[str]:
    """Return argv of etcdctl for this node's own member."""
    keys = {"cacert": ETCD_CA, "cert": ETCD_CERTIFICATE, "key": ETCD_KEY}
    flags = [f"--{name}={files.under(root, path)}" for name, path in keys.items()]
    return ["etcdctl", *flags, f"--endpoints={etcd_endpoint(root)}", *words]


def kubelet_healthy(http_ok: Callable[..., bool] = net.http_ok) -> bool:
    """Return whether kubelet's health check succeeds."""
    return http_ok("127.0.0.1", 10248, "/healthz")


def apiserver_ready(root: str = "/", http_ok: Callable[..., bool] = net.http_ok) -> bool:
    """Return whether the readiness check of this node's own API server succeeds."""
    address = apiserver_address(root)
    return bool(address) and http_ok(str(address), 6443, "/readyz", ca=files.under(root, CA))
