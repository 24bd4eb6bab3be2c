"""The API of the cluster as Kubernetes 1.17 has it, in front of an API server that is newer.

What 1.17 does not have is answered with 404, fields that it does not know are dropped, and nodes report versions of
that time. Only clients outside the cluster come through here.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
from typing import Any, NamedTuple

PORT = 6443
# The API server itself.
BEHIND = 6444

# Versions of the built-in groups that 1.17 serves and that newer servers still have.
GROUPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("apps", "autoscaling", "batch"), ("v1",)),
    **dict.fromkeys(
        (
            "admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "authentication.k8s.io",
            "authorization.k8s.io", "coordination.k8s.io", "networking.k8s.io", "rbac.authorization.k8s.io",
            "scheduling.k8s.io", "storage.k8s.io",
        ),
        ("v1",),
    ),
    **dict.fromkeys(
        (
            "certificates.k8s.io", "discovery.k8s.io", "events.k8s.io", "flowcontrol.apiserver.k8s.io",
            "internal.apiserver.k8s.io", "node.k8s.io", "policy", "resource.k8s.io", "storagemigration.k8s.io",
        ),
        (),
    ),
}  # fmt: skip
LATER = {
    "batch/v1": {"cronjobs"},
    "networking.k8s.io/v1": {"ingresses", "ingressclasses", "ipaddresses", "servicecidrs"},
    "storage.k8s.io/v1": {"csidrivers", "csistoragecapacities", "volumeattributesclasses"},
}
LATER_FIELDS = ("clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy", "trafficDistribution")
VERSION = {"major": "1", "minor": "17", "gitVersion": "v1.17.9"}
NODE = {"kubeletVersion": "v1.17.9", "kubeProxyVersion": "v1.17.9", "containerRuntimeVersion": "docker://19.3.12"}
# Requests whose answers are streams.
STREAMS = {"log", "proxy", "attach", "exec", "portforward"}
MISSING = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 19\r\nConnection: close\r\n\r\n"
    b"404 page not found\n"
)


def is_missing(path: str) -> bool:
    """Return whether 1.17 does not have ``path``."""
    top, *parts = path.strip("/").split("/")
    if top == "openapi":
        return parts[:1] == ["v3"]
    if top != "apis" or not parts or parts[0] not in GROUPS:
        return False
    group, versions = parts[0], GROUPS[parts[0]]
    if len(parts) == 1:
        return not versions
    rest = parts[2:]
    resource = (rest[2:] if rest[:1] == ["namespaces"] and len(rest) > 2 else rest)[:1]
    return parts[1] not in versions or not LATER.get(f"{group}/{parts[1]}", set()).isdisjoint(resource)


def as_old(document: Any) -> Any:
    """Return an answer of the API as 1.17 gives it."""
    if not isinstance(document, dict):
        return document
    kind = str(document.get("kind", ""))
    if "gitVersion" in document:
        return {**document, **VERSION}
    if kind == "APIGroupList":
        groups = [_item(group, "APIGroup") for group in document["groups"]]
        return {**document, "groups": [group for group in groups if group["versions"]]}
    if kind == "APIGroup":
        known = GROUPS.get(document["name"])
        versions = [entry for entry in document["versions"] if known is None or entry["version"] in known]
        return {**document, "versions": versions, "preferredVersion": (versions or [None])[0]}
    if kind == "APIResourceList":
        later = LATER.get(document["groupVersion"], set())
        return {
            **document,
            "resources": [row for row in document["resources"] if row["name"].split("/")[0] not in later],
        }
    if kind in ("NodeList", "ServiceList"):
        return {**document, "items": [_item(item, kind[:-4]) for item in document["items"]]}
    if kind == "Node" and "nodeInfo" in document.get("status", {}):
        status = document["status"]
        return {**document, "status": {**status, "nodeInfo": {**status["nodeInfo"], **NODE}}}
    if kind == "Service":
        spec = {key: value for key, value in document.get("spec", {}).items() if key not in LATER_FIELDS}
        return {**document, "spec": spec}
    return document


def _item(item: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return an item of a list, which has no kind of its own."""
    return {key: value for key, value in as_old({**item, "kind": kind}).items() if key in item}


class Request(NamedTuple):
    """The head of a request; ``early``: what came of the body with it."""

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    early: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def is_stream(self) -> bool:
        is_long = "watch=" in self.query or bool(self.header("upgrade")) or self.header("transfer-encoding") != ""
        return is_long or not STREAMS.isdisjoint(self.path.split("/"))

    def lines(self, version: str, skipped: tuple[str, ...], more: dict[str, str]) -> bytes:
        target = self.path + (f"?{self.query}" if self.query else "")
        headers = [(key, value) for key, value in self.headers if key.lower() not in skipped]
        rows = [f"{key}: {value}" for key, value in [*headers, *more.items()]]
        return "\r\n".join([f"{self.method} {target} HTTP/{version}", *rows, "", ""]).encode("latin-1")


def read_request(client: ssl.SSLSocket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        block = client.recv(65536)
        if not block or len(data) > 1 << 20:
            return None
        data += block
    head, _, early = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _version = first.split(" ")
    path, _, query = target.partition("?")
    headers = [(key, value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    return Request(method, path, query, headers, early)


def exchange(client: ssl.SSLSocket, behind: ssl.SSLSocket, request: Request) -> None:
    """Pass a request and its answer, both complete. HTTP/1.0: the answer ends with the connection."""
    body = request.early
    length = int(request.header("content-length") or 0)
    while len(body) < length:
        body += client.recv(65536)
    if body and request.path.rstrip("/").endswith("/services"):
        with contextlib.suppress(ValueError):
            body = json.dumps(as_old({"kind": "Service", **json.loads(body)})).encode()
    skipped = ["connection", "accept-encoding", "content-length", "expect"]
    more = {"Content-Length": str(len(body))} if length else {}
    if request.path in ("/api", "/apis"):
        # 1.17 has no list of all resources.
        skipped.append("accept")
        more["Accept"] = "application/json"
    behind.sendall(request.lines("1.0", tuple(skipped), more) + body)
    data = b""
    while block := behind.recv(65536):
        data += block
    head, _, content = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if any(line.lower().startswith("content-type: application/json") for line in lines):
        with contextlib.suppress(ValueError):
            content = json.dumps(as_old(json.loads(content))).encode()
    kept = [line for line in lines[1:] if line.split(":")[0].lower() not in ("connection", "content-length")]
    rows = [lines[0].replace("HTTP/1.0", "HTTP/1.1"), *kept, f"Content-Length: {len(content)}", "Connection: close"]
    client.sendall("\r\n".join([*rows, "", ""]).encode("latin-1") + content)


def splice(client: ssl.SSLSocket, behind: ssl.SSLSocket, request: Request) -> None:
    """Pass a request, then everything in both directions until one side ends."""
    is_upgrade = bool(request.header("upgrade"))
    more = {} if is_upgrade else {"Connection": "close"}
    behind.sendall(request.lines("1.1", () if is_upgrade else ("connection",), more) + request.early)
    other = {client: behind, behind: client}
    while True:
        waiting = [end for end in other if end.pending()]
        ready = waiting or select.select(list(other), [], [], 3600)[0]
        if not ready:
            return
        for end in ready:
            # A record may carry no data, such as a session ticket.
            end.settimeout(0)
            try:
                block = end.recv(65536)
            except ssl.SSLWantReadError:
                continue
            finally:
                end.settimeout(60)
            if not block:
                return
            other[end].sendall(block)


def serve(address: str, certificate: str, key: str, authority: str) -> None:
    """Answer at PORT of all addresses until the process ends."""
    front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    front.load_cert_chain(certificate, key)
    back = ssl.create_default_context(cafile=authority)

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, contextlib.ExitStack() as stack:
            connection.settimeout(60)
            client = stack.enter_context(front.wrap_socket(connection, server_side=True))
            request = read_request(client)
            if request is None:
                return
            if is_missing(request.path):
                client.sendall(MISSING)
                return
            plain = stack.enter_context(socket.create_connection((address, BEHIND), timeout=60))
            behind = stack.enter_context(back.wrap_socket(plain, server_hostname=address))
            (splice if request.is_stream else exchange)(client, behind, request)

    with socket.create_server(("0.0.0.0", PORT), backlog=128) as listener:  # a node of a test network
        while True:
            connection, _peer = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()
