"""Traffic while a member joins etcd, with real sockets and TLS: the requests, their start and their end."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import etcd_traffic, run
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes, net
from support import tls
from support.node import Node, write
from support.waits import until

MANIFEST = """
    - --initial-cluster=master-0={others},master-1={own}
    - --listen-metrics-urls={metrics}
    - --listen-peer-urls={own}
"""


class Etcd:
    """A member that responds to transactions and records them in ``requests``."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, list[dict[str, dict[str, str]]]]]] = []
        self.ready = False
        self.members = self.metrics = 0


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node with one self-signed certificate for both ends, and its key."""
    node = Node(tmp_path / "node")
    node.status = net.http_status
    certificate, key = Path(node.path(kubernetes.ETCD_CERTIFICATE)), Path(node.path(kubernetes.ETCD_KEY))
    certificate.parent.mkdir(parents=True)
    tls.self_signed(key, certificate)
    Path(node.path(kubernetes.ETCD_CA)).write_bytes(certificate.read_bytes())
    return node


@pytest.fixture
def etcd(node: Node) -> Iterator[Etcd]:
    """The earlier members, and the port of this one's readiness check."""
    etcd = Etcd()

    class Member(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            etcd.requests.append((self.path, body))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if etcd.ready and self.path == "/readyz" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    certificate, key = Path(node.path(kubernetes.ETCD_CERTIFICATE)), Path(node.path(kubernetes.ETCD_KEY))
    context = tls.server_context(key, certificate, ask_client=True)
    with tls.served(Member, context) as etcd.members, tls.served(Metrics) as etcd.metrics:
        yield etcd


@pytest.fixture
def manifest(node: Node, etcd: Etcd) -> Iterator[Callable[[], socket.socket]]:
    """Return a function that writes the manifest and returns the socket on which this node's member listens."""
    listener = socket.socket()
    listener.bind(("127.0.0.2", 0))

    def write_manifest() -> socket.socket:
        text = MANIFEST.format(
            others="https://127.0.0.1:2380",
            own=f"https://127.0.0.2:{listener.getsockname()[1]}",
            metrics=f"http://127.0.0.1:{etcd.metrics}",
        )
        write(Path(node.path(kubernetes.ETCD_MANIFEST)), text)
        return listener

    yield write_manifest
    listener.close()


def busy(
    node: Node, port: int, limit: float = etcd_traffic.LIMIT
) -> contextlib.AbstractContextManager[threading.Thread]:
    return run.in_background(functools.partial(etcd_traffic.keep_busy, node, limit=limit, client_port=port))


def test_a_manifest_names_the_members_before_this_one() -> None:
    text = MANIFEST.format(
        others="https://10.0.0.1:2380,master-2=https://[fd00::3]:2380",
        own="https://[fd00::2]:2380",
        metrics="http://[::1]:2381",
    )
    assert etcd_traffic.member(text) == (("10.0.0.1", "fd00::3"), 2380, ("::1", 2381))


def test_half_a_manifest_has_no_member_and_a_first_member_has_no_others() -> None:
    text = "- --initial-cluster=a=https://10.0.0.1:2380\n- --listen-peer-urls=https://10.0.0.1:2380\n"
    assert etcd_traffic.member(text) is None
    first = etcd_traffic.member(text + "- --listen-metrics-urls=http://127.0.0.1:2381")
    assert first is not None
    assert first.others == ()


def test_a_listening_port_is_detected() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as bound:
            bound.bind((host, 0))
            port = bound.getsockname()[1]
            assert not etcd_traffic.listens(port)
            bound.listen()
            assert etcd_traffic.listens(port)


def _no_request_in(seconds: float, etcd: Etcd) -> bool:
    count = len(etcd.requests)
    time.sleep(seconds)
    return len(etcd.requests) == count


def test_traffic_starts_when_the_member_listens_and_ends_when_it_is_ready(
    node: Node, etcd: Etcd, manifest: Callable[[], socket.socket]
) -> None:
    with busy(node, etcd.members, limit=20) as thread:
        listener = manifest()
        time.sleep(0.5)
        assert etcd.requests == []
        listener.listen()
        # More than was sent ahead: each response makes room for another request.
        until(lambda: len(etcd.requests) > 3 * etcd_traffic.CONNECTIONS * etcd_traffic.AHEAD)
        etcd.ready = True
        until(lambda: not thread.is_alive())
        # The member may still read what was sent before.
        until(lambda: _no_request_in(0.3, etcd))


def test_the_transactions_change_nothing(node: Node, etcd: Etcd, manifest: Callable[[], socket.socket]) -> None:
    with busy(node, etcd.members):
        manifest().listen()
        until(lambda: etcd.requests)
    path, body = etcd.requests[0]
    assert path == "/v3/kv/txn"
    assert {kind for operation in body["success"] for kind in operation} == {"requestDeleteRange", "requestRange"}
    deleted = [entry["requestDeleteRange"] for entry in body["success"] if "requestDeleteRange" in entry]
    assert [base64.b64decode(entry["key"]) for entry in deleted] == [b"devenv/nothing"]
    assert all("rangeEnd" not in entry for entry in deleted)


def test_traffic_ends_at_its_limit_for_a_member_that_is_never_ready(
    node: Node, etcd: Etcd, manifest: Callable[[], socket.socket]
) -> None:
    with busy(node, etcd.members, limit=2) as thread:
        manifest().listen()
        until(lambda: not thread.is_alive())
    assert etcd.requests


@pytest.mark.parametrize("missing", ["manifest", "certificate", "members"])
def test_a_missing_part_does_not_fail_the_join(
    missing: str, node: Node, etcd: Etcd, manifest: Callable[[], socket.socket]
) -> None:
    port = etcd.members
    if missing == "certificate":
        Path(node.path(kubernetes.ETCD_CERTIFICATE)).unlink()
    if missing == "members":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    with busy(node, port) as thread:
        if missing != "manifest":
            manifest().listen()
        time.sleep(0.3)
    assert not thread.is_alive()
    assert etcd.requests == []
