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
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import state as kubernetes_state
from support import tls

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


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """One certificate, of its own authority, for both ends, and its key beside it."""
    path = tmp_path / "etcd.crt"
    tls.self_signed(path.with_suffix(".key"), path)
    return path


@pytest.fixture
def etcd(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Etcd, int]]:
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

    for name in ("ETCD_CA", "ETCD_CERTIFICATE"):
        monkeypatch.setattr(kubernetes_state, name, str(certificate))
    monkeypatch.setattr(kubernetes_state, "ETCD_KEY", str(certificate.with_suffix(".key")))
    context = tls.server_context(certificate.with_suffix(".key"), certificate, ask_client=True)
    with tls.served(Member, context) as members, tls.served(Metrics) as metrics:
        monkeypatch.setattr(etcd_traffic, "CLIENT_PORT", members)
        yield told, metrics


@pytest.fixture
def manifest(tmp_path: Path, etcd: tuple[Etcd, int]) -> Iterator[Callable[[], socket.socket]]:
    """Writes the manifest, and gives the socket on which this node's member would listen."""
    own = socket.socket()
    own.bind(("127.0.0.2", 0))

    def write() -> socket.socket:
        text = MANIFEST.format(
            others="https://127.0.0.1:2380",
            own=f"https://127.0.0.2:{own.getsockname()[1]}",
            metrics=f"http://127.0.0.1:{etcd[1]}",
        )
        (tmp_path / "etcd.yaml").write_text(text)
        return own

    yield write
    own.close()


def until(done: Callable[[], object], seconds: float = 10) -> None:
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
    etcd: tuple[Etcd, int], manifest: Callable[[], socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, _ = etcd
    monkeypatch.setattr(etcd_traffic, "LIMIT", 20)
    with etcd_traffic.Traffic(str(tmp_path / "etcd.yaml")) as traffic:
        own = manifest()
        time.sleep(0.5)
        assert told.asked == []
        own.listen()
        # More than was sent ahead: answers make place for the next.
        until(lambda: len(told.asked) > 3 * etcd_traffic.CONNECTIONS * etcd_traffic.AHEAD)
        told.ready = True
        until(lambda: not traffic._thread.is_alive())
        time.sleep(0.2)
        count = len(told.asked)
        time.sleep(0.3)
        assert len(told.asked) == count


def test_what_is_written_changes_nothing(
    etcd: tuple[Etcd, int], manifest: Callable[[], socket.socket], tmp_path: Path
) -> None:
    told, _ = etcd
    with etcd_traffic.Traffic(str(tmp_path / "etcd.yaml")):
        manifest().listen()
        until(lambda: told.asked)
    path, body = told.asked[0]
    assert path == "/v3/kv/txn"
    assert {kind for one in body["success"] for kind in one} == {"requestDeleteRange", "requestRange"}
    deleted = [one["requestDeleteRange"] for one in body["success"] if "requestDeleteRange" in one]
    assert [base64.b64decode(one["key"]) for one in deleted] == [b"devenv/nothing"]
    assert all("rangeEnd" not in one for one in deleted)


def test_a_member_that_is_never_ready_is_given_up(
    etcd: tuple[Etcd, int], manifest: Callable[[], socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_traffic, "LIMIT", 0.3)
    with etcd_traffic.Traffic(str(tmp_path / "etcd.yaml")) as traffic:
        manifest().listen()
        until(lambda: not traffic._thread.is_alive())
    assert etcd[0].asked


@pytest.mark.parametrize("lost", ["manifest", "certificate", "members"])
def test_nothing_that_is_missing_fails_the_join(
    lost: str,
    etcd: tuple[Etcd, int],
    manifest: Callable[[], socket.socket],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if lost == "certificate":
        monkeypatch.setattr(kubernetes_state, "ETCD_CERTIFICATE", str(tmp_path / "none"))
    if lost == "members":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            monkeypatch.setattr(etcd_traffic, "CLIENT_PORT", free.getsockname()[1])
    with etcd_traffic.Traffic(str(tmp_path / "etcd.yaml")) as traffic:
        if lost != "manifest":
            manifest().listen()
        time.sleep(0.3)
    assert not traffic._thread.is_alive()
    assert etcd[0].asked == []
