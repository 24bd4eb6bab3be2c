"""The state of Kubernetes on a node, from files and HTTP responses."""

from __future__ import annotations

import hashlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node import certificate, net
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes as ks
from support import tls
from support.node import write


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("x")


def test_an_empty_node_is_absent(tmp_path: Path) -> None:
    assert ks.state(str(tmp_path)) == {"state": "absent", "marker": {}, "missing": []}


@pytest.mark.parametrize("path", ks.TRACES)
def test_any_trace_without_the_marker_is_partial(tmp_path: Path, path: str) -> None:
    touch(tmp_path, path)
    assert ks.state(str(tmp_path))["state"] == "partial"


@pytest.mark.parametrize("role", ["control_plane", "worker"])
def test_a_node_without_the_marker_is_not_finished(tmp_path: Path, role: str) -> None:
    """kubeadm was killed after it wrote its last file."""
    touch(tmp_path, *ks.CONTROL_PLANE_FILES)
    assert ks.state(str(tmp_path))["state"] == "partial"
    ks.mark(role, {"node": "n"}, str(tmp_path))
    assert ks.state(str(tmp_path))["state"] == role


@pytest.mark.parametrize(("role", "files"), [("control_plane", ks.CONTROL_PLANE_FILES), ("worker", ks.NODE_FILES)])
def test_a_finished_node_that_lacks_a_file_is_partial(tmp_path: Path, role: str, files: tuple[str, ...]) -> None:
    ks.mark(role, {}, str(tmp_path))
    for lost in files:
        touch(tmp_path, *files)
        (tmp_path / lost.lstrip("/")).unlink()
        state = ks.state(str(tmp_path))
        assert (state["state"], state["missing"], bool(state["marker"])) == ("partial", [lost], True)


def test_a_worker_needs_no_control_plane_files(tmp_path: Path) -> None:
    touch(tmp_path, *ks.NODE_FILES)
    ks.mark("worker", {}, str(tmp_path))
    assert ks.state(str(tmp_path))["state"] == "worker"


@pytest.mark.parametrize("text", ["", "half a li", "[]", '{"role": ""}'])
def test_a_damaged_marker_does_not_count(tmp_path: Path, text: str) -> None:
    touch(tmp_path, *ks.CONTROL_PLANE_FILES, ks.MARKER)
    (tmp_path / ks.MARKER.lstrip("/")).write_text(text)
    assert ks.state(str(tmp_path))["state"] == "partial"


def test_the_marker_can_be_removed_twice(tmp_path: Path) -> None:
    ks.mark("worker", {}, str(tmp_path))
    ks.unmark(str(tmp_path))
    ks.unmark(str(tmp_path))
    assert ks.state(str(tmp_path))["state"] == "absent"


def openssl(*words: str, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=data, capture_output=True, check=True).stdout


KEYS = {
    "rsa": ("-newkey", "rsa:2048"),
    "ec": tls.EC,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    folder = tmp_path_factory.mktemp("certificates")

    def make(kind: str, days: int) -> Path:
        path = folder / f"{kind}-{days}.crt"
        if not path.exists():
            tls.self_signed(Path(f"{path}.key"), path, kind=KEYS[kind], name="kubernetes", days=days)
        return path

    return make


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("days", [10, 20000])  # beyond 2049, X.509 writes the time in another form
def test_certificates_are_parsed_like_openssl(made: Callable[[str, int], Path], kind: str, days: int) -> None:
    path = made(kind, days)
    public = openssl("pkey", "-pubin", "-outform", "der", data=openssl("x509", "-in", str(path), "-noout", "-pubkey"))
    shown = openssl("x509", "-in", str(path), "-noout", "-enddate", "-dateopt", "iso_8601").decode()
    assert certificate.parse(path.read_text()) == {
        "end": shown.strip().removeprefix("notAfter=").replace(" ", "T"),
        "key_hash": "sha256:" + hashlib.sha256(public).hexdigest(),
    }


@pytest.mark.parametrize("text", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_other_texts_are_not_certificates(text: str) -> None:
    assert certificate.parse(text) == {}


def test_expiry_and_ca_of_a_node_are_reported(tmp_path: Path, made: Callable[[str, int], Path]) -> None:
    path = tmp_path / ks.CA.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_text(made("ec", 10).read_text())
    assert list(ks.certificate_ends(str(tmp_path))) == [ks.CA]
    assert ks.ca_hash(str(tmp_path)).startswith("sha256:")
    assert ks.ca_hash(str(tmp_path / "none")) == ""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 500)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def plain() -> Iterator[int]:
    with tls.served(Handler) as port:
        yield port


@pytest.fixture
def secured(made: Callable[[str, int], Path]) -> Iterator[int]:
    path = made("ec", 10)
    with tls.served(Handler, tls.server_context(Path(f"{path}.key"), path)) as port:
        yield port


def test_only_200_is_ready(plain: int) -> None:
    assert net.http_ok("127.0.0.1", plain, "/readyz")
    assert not net.http_ok("127.0.0.1", plain, "/other")


def test_the_certificate_of_the_server_is_verified(secured: int, made: Callable[[str, int], Path]) -> None:
    assert net.http_ok("127.0.0.1", secured, "/readyz", ca=str(made("ec", 10)))
    assert not net.http_ok("127.0.0.1", secured, "/readyz", ca=str(made("rsa", 10)))
    assert not net.http_ok("127.0.0.1", secured, "/readyz", ca="/none")


def test_a_closed_port_is_not_ready() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert not net.http_ok("127.0.0.1", free.getsockname()[1], "/readyz", timeout=0.5)
        assert net.http_status("127.0.0.1", free.getsockname()[1], "/readyz", timeout=0.5) is None


def test_a_client_shows_its_certificate(made: Callable[[str, int], Path], tmp_path: Path) -> None:
    path = made("ec", 10)
    client = tmp_path / "client.pem"
    client.write_text(path.read_text() + Path(f"{path}.key").read_text())
    context = tls.server_context(Path(f"{path}.key"), path, ask_client=True)
    with tls.served(Handler, context) as port:
        assert net.http_status("127.0.0.1", port, "/readyz", str(path), certificate=str(client)) == 200
        assert net.http_status("127.0.0.1", port, "/other", str(path), certificate=str(client)) == 500
        assert net.http_status("127.0.0.1", port, "/readyz", str(path)) is None


@pytest.mark.parametrize(
    ("server", "endpoint"),
    [("https://lab-api:6443", ("lab-api", 6443)), ("https://[fd77::10]:6443", ("fd77::10", 6443))],
)
def test_a_node_queries_its_own_node_object(tmp_path: Path, server: str, endpoint: tuple[str, int]) -> None:
    root, answer = str(tmp_path), {"status": 404}
    requests: list[tuple[Any, ...]] = []

    def http_status(address: str, port: int, path: str, **more: Any) -> Any:
        requests.append((address, port, path, more["certificate"]))
        return answer["status"]

    assert ks.is_registered(root, http_status) is None
    write(tmp_path / ks.KUBELET.lstrip("/"), f"clusters:\n- cluster:\n    server: {server}\n  name: lab\n")
    assert ks.is_registered(root, http_status) is None
    ks.mark("worker", {"node": "worker-0"}, root)
    assert requests == []
    assert ks.is_registered(root, http_status) is False
    assert requests == [(*endpoint, "/api/v1/nodes/worker-0", str(tmp_path / ks.KUBELET_CERTIFICATE.lstrip("/")))]
    for status, registered in ((200, True), (403, None), (None, None)):
        answer["status"] = status
        assert ks.is_registered(root, http_status) is registered


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("    - --advertise-address=10.0.0.1\n", "10.0.0.1"),
        ("    - '--advertise-address=fd77::a'\n", "fd77::a"),
        ("    - --other=1\n", None),
    ],
)
def test_the_address_of_the_apiserver_is_read_from_its_manifest(tmp_path: Path, text: str, address: str | None) -> None:
    path = tmp_path / "etc/kubernetes/manifests/kube-apiserver.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert ks.apiserver_address(str(tmp_path)) == address


@pytest.mark.parametrize(
    ("manifest", "endpoint"),
    [
        ("    - --listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379\n", "https://127.0.0.1:2379"),
        ("    - --listen-client-urls=https://[::1]:2379,https://[fd77::10]:2379\n", "https://[::1]:2379"),
        ("", "https://127.0.0.1:2379"),
    ],
)
def test_the_endpoint_of_etcd_is_the_loopback_of_the_first_family(tmp_path: Path, manifest: str, endpoint: str) -> None:
    path = tmp_path / "etc/kubernetes/manifests/etcd.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(manifest)
    assert ks.etcd_endpoint(str(tmp_path)) == endpoint
