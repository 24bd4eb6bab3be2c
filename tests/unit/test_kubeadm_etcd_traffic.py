"""Traffic while a member joins etcd: with real sockets and TLS, what is asked, from when and until when."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import etcd_traffic
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes, net
from support import tls
from support.node import Node, write

MANIFEST = """
    - --initial-cluster=master-0={others},master-1={own}
    - --listen-metrics-urls={metrics}
    - --listen-peer-urls={own}
"""


class Etcd:
    """A member that answers transactions, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, list[dict[str, dict[str, str]]]]]] = []
        self.ready = False
        self.members = self.metrics = 0


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node with one certificate, of its own authority, for both ends, and its key beside it."""
    node = Node(tmp_path / "node")
    node.http_ok = net.http_ok
    certificate, key = Path(node.path(kubernetes.ETCD_CERTIFICATE)), Path(node.path(kubernetes.ETCD_KEY))
    certificate.parent.mkdir(parents=True)
    tls.self_signed(key, certificate)
    Path(node.path(kubernetes.ETCD_CA)).write_bytes(certificate.read_bytes())
    return node


@pytest.fixture
def etcd(node: Node) -> Iterator[Etcd]:
    """The members before this one, and the port where this one tells whether it is ready."""
    told = Etcd()

    class Member(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.asked.append((self.path, body))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if told.ready and self.path == "/readyz" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    certificate, key = Path(node.path(kubernetes.ETCD_CERTIFICATE)), Path(node.path(kubernetes.ETCD_KEY))
    context = tls.server_context(key, certificate, ask_client=True)
    with tls.served(Member, context) as told.members, tls.served(Metrics) as told.metrics:
        yield told


@pytest.fixture
def manifest(node: Node, etcd: Etcd) -> Iterator[Callable[[], socket.socket]]:
    """Writes the manifest, and gives the socket on which this node's member would listen."""
    own = socket.socket()
    own.bind(("127.0.0.2", 0))

    def written() -> socket.socket:
        text = MANIFEST.format(
            others="https://127.0.0.1:2380",
            own=f"https://127.0.0.2:{own.getsockname()[1]}",
            metrics=f"http://127.0.0.1:{etcd.metrics}",
        )
        write(Path(node.path(kubernetes.ETCD_MANIFEST)), text)
        return own

    yield written
    own.close()


def until(done: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_manifest_names_the_members_before_this_one() -> None:
    text = MANIFEST.format(
        others="https://10.0.0.1:2380,master-2=https://[fd00::3]:2380",
        own="https://[fd00::2]:2380",
        metrics="http://[::1]:2381",
    )
    assert etcd_traffic.member(text) == (("10.0.0.1", "fd00::3"), 2380, ("::1", 2381))


def test_a_first_member_has_nobody_before_it_and_half_a_manifest_says_nothing() -> None:
    own = "- --initial-cluster=a=https://10.0.0.1:2380\n- --listen-peer-urls=https://10.0.0.1:2380\n"
    assert etcd_traffic.member(own) is None
    alone = etcd_traffic.member(own + "- --listen-metrics-urls=http://127.0.0.1:2381")
    assert alone is not None
    assert alone.others == ()


def test_a_port_that_listens_is_seen() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as bound:
            bound.bind((host, 0))
            port = bound.getsockname()[1]
            assert not etcd_traffic.listens(port)
            bound.listen()
            assert etcd_traffic.listens(port)


def test_others_write_from_when_the_member_listens_until_it_is_ready(
    node: Node, etcd: Etcd, manifest: Callable[[], socket.socket]
) -> None:
    with etcd_traffic.EtcdTraffic(node, limit=20, client_port=etcd.members) as traffic:
        own = manifest()
        time.sleep(0.5)
        assert etcd.asked == []
        own.listen()
        # More than was sent ahead: answers make place for the next.
        until(lambda: len(etcd.asked) > 3 * etcd_traffic.CONNECTIONS * etcd_traffic.AHEAD)
        etcd.ready = True
        until(lambda: not traffic._thread.is_alive())
        time.sleep(0.2)
        count = len(etcd.asked)
        time.sleep(0.3)
        assert len(etcd.asked) == count


def test_what_is_written_changes_nothing(node: Node, etcd: Etcd, manifest: Callable[[], socket.socket]) -> None:
    with etcd_traffic.EtcdTraffic(node, client_port=etcd.members):
        manifest().listen()
        until(lambda: etcd.asked)
    path, body = etcd.asked[0]
    assert path == "/v3/kv/txn"
    assert {kind for one in body["success"] for kind in one} == {"requestDeleteRange", "requestRange"}
    deleted = [one["requestDeleteRange"] for one in body["success"] if "requestDeleteRange" in one]
    assert [base64.b64decode(one["key"]) for one in deleted] == [b"devenv/nothing"]
    assert all("rangeEnd" not in one for one in deleted)


def test_a_member_that_is_never_ready_is_given_up(
    node: Node, etcd: Etcd, manifest: Callable[[], socket.socket]
) -> None:
    with etcd_traffic.EtcdTraffic(node, limit=0.3, client_port=etcd.members) as traffic:
        manifest().listen()
        until(lambda: not traffic._thread.is_alive())
    assert etcd.asked


@pytest.mark.parametrize("lost", ["manifest", "certificate", "members"])
def test_nothing_that_is_missing_fails_the_join(
    lost: str, node: Node, etcd: Etcd, manifest: Callable[[], socket.socket]
) -> None:
    port = etcd.members
    if lost == "certificate":
        Path(node.path(kubernetes.ETCD_CERTIFICATE)).unlink()
    if lost == "members":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    with etcd_traffic.EtcdTraffic(node, client_port=port) as traffic:
        if lost != "manifest":
            manifest().listen()
        time.sleep(0.3)
    assert not traffic._thread.is_alive()
    assert etcd.asked == []
