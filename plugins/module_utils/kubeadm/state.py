"""What state Kubernetes is in on this node, told from its files and its answers.

The layout of /etc/kubernetes and /var/lib/kubelet is kubeadm's
(https://kubernetes.io/docs/reference/setup-tools/kubeadm/implementation-details/).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import socket
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import observe

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
ETCDCTL = ("etcdctl", f"--cacert={ETCD_CA}", f"--cert={ETCD_CERTIFICATE}", f"--key={ETCD_KEY}")
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
    """Files that a finished node of ``role`` (control_plane or worker) has and this one lacks."""
    wanted = CONTROL_PLANE_FILES if role == "control_plane" else NODE_FILES
    return [path for path in wanted if not os.path.exists(observe.under(root, path))]


def traces(root: str = "/") -> list[str]:
    """Files of Kubernetes that are there, finished or not."""
    return [path for path in TRACES if os.path.lexists(observe.under(root, path))]


def state(root: str = "/") -> dict[str, Any]:
    """``{state, marker, missing}``; state is absent, partial, control_plane or worker.

    partial without a marker: kubeadm was begun here and did not end well; nothing of it is worth keeping.
    partial with a marker: the node was finished and has lost the files in ``missing``; that is damage, not a killed
    run.
    """
    marker = observe.read_json(observe.under(root, MARKER))
    role = str(marker.get("role", ""))
    lacking = missing(role, root) if role in ("control_plane", "worker") else []
    if marker:
        return {"state": "partial" if lacking or not role else role, "marker": marker, "missing": lacking}
    return {"state": "partial" if traces(root) else "absent", "marker": {}, "missing": []}


def mark(role: str, details: dict[str, Any], root: str = "/") -> None:
    """Say that kubeadm ended with 0 on this node."""
    path = observe.under(root, MARKER)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as stream:
        stream.write(json.dumps(dict(details, role=role), indent=1, sort_keys=True) + "\n")
    os.replace(path + ".new", path)


def unmark(root: str = "/") -> None:
    """Take that back: something begins that may not end."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(observe.under(root, MARKER))


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """DER (ITU-T X.690): tag, start of the content and end of the element at ``at``."""
    length, start = data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(data[start : start + count], "big"), start + count
    return data[at], start, start + length


def certificate(pem: str) -> dict[str, str]:
    """``{"end": "2027-11-21T09:00:00Z", "key_hash": "sha256:..."}`` of the first certificate in a PEM text, {} when
    there is none.

    ``key_hash`` is over the SubjectPublicKeyInfo, as kubeadm's discovery wants it (RFC 7469).
    """
    match = re.search("-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", pem, re.DOTALL)
    if match is None:
        return {}
    try:
        der = base64.b64decode(match.group(1))
        at = _element(der, _element(der, 0)[1])[1]
        fields: list[tuple[int, int, int]] = []
        # RFC 5280: [version] serial signature issuer validity subject subjectPublicKeyInfo
        while len(fields) < 6:
            tag, start, end = _element(der, at)
            if tag != 0xA0:
                fields.append((at, start, end))
            at = end
        validity = fields[3]
        _ignored, _ignored, after_begin = _element(der, validity[1])
        tag, start, end = _element(der, after_begin)
        digest = hashlib.sha256(der[fields[5][0] : fields[5][2]]).hexdigest()
        return {"end": _time(tag, der[start:end].decode("ascii")), "key_hash": "sha256:" + digest}
    except (IndexError, ValueError, binascii.Error):
        return {}


def _time(tag: int, text: str) -> str:
    """UTCTime (0x17, two-digit year from 1950 on, RFC 5280 4.1.2.5.1) or GeneralizedTime -> ISO 8601."""
    if tag == 0x17:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[8:10]}:{text[10:12]}:{text[12:14]}Z"


def certificate_ends(root: str = "/") -> dict[str, str]:
    """End of validity by path, of the certificates that are there."""
    ends = {path: certificate(observe.read_text(observe.under(root, path))).get("end", "") for path in CERTIFICATES}
    return {path: end for path, end in ends.items() if end}


def ca_hash(root: str = "/") -> str:
    """``sha256:...`` of the cluster CA's public key (public information), "" when there is no CA here."""
    return certificate(observe.read_text(observe.under(root, CA))).get("key_hash", "")


def kubeconfig_digest(root: str = "/") -> str:
    """``sha256:...`` of the administrator's kubeconfig, "" when there is none here."""
    found = observe.file_state(ADMIN, root)
    return "sha256:" + str(found["sha256"]) if found else ""


def http_ok(address: str, port: int, path: str, ca: str = "", timeout: float = 3) -> bool:
    """Whether GET answers 200; over TLS checked against the file ``ca`` when one is given."""
    try:
        with socket.create_connection((address, port), timeout=timeout) as plain:
            plain.settimeout(timeout)
            if not ca:
                return _get(plain, address, path)
            import ssl  # not in every small python; only control plane nodes need it

            context = ssl.create_default_context(cafile=ca)
            with context.wrap_socket(plain, server_hostname=address) as wrapped:
                return _get(wrapped, address, path)
    except (OSError, ImportError, ValueError):
        return False


def _get(connection: Any, host: str, path: str) -> bool:
    connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    answer = b""
    while b"\r\n" not in answer and len(answer) < 4096:
        block = connection.recv(4096)
        if not block:
            break
        answer += block
    return re.match(rb"HTTP/1\.[01] 200 ", answer) is not None


def etcd_endpoint(root: str = "/") -> str:
    """URL at which this node's own etcd answers, from its manifest: ``https://[::1]:2379`` where IPv6 comes first."""
    manifest = observe.read_text(observe.under(root, ETCD_MANIFEST))
    match = re.search(r"--listen-client-urls=([^,\s]+)", manifest)
    return match.group(1) if match else "https://127.0.0.1:2379"


def apiserver_address(root: str = "/") -> str | None:
    """Address that this node's apiserver advertises, from its manifest."""
    manifest = observe.read_text(observe.under(root, "/etc/kubernetes/manifests/kube-apiserver.yaml"))
    match = re.search(r"--advertise-address=(\S+)", manifest)
    return match.group(1).strip("\"'") if match else None
