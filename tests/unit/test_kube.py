"""The API client with a real TLS server, and the credentials in a kubeconfig."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client as kube
from support import tls

Json = dict[str, Any]


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def document(**changes: Any) -> Json:
    """Return a kubeconfig in the form that kubeadm writes."""
    base: Json = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "kubernetes-admin@kubernetes",
        "clusters": [
            {
                "name": "kubernetes",
                "cluster": {
                    "certificate-authority-data": encoded("AUTHORITY"),
                    "server": "https://m.devenv.internal:6443",
                },
            }
        ],
        "users": [
            {
                "name": "kubernetes-admin",
                "user": {"client-certificate-data": encoded("CERT"), "client-key-data": encoded("KEY")},
            }
        ],
        "contexts": [
            {
                "name": "kubernetes-admin@kubernetes",
                "context": {"cluster": "kubernetes", "user": "kubernetes-admin"},
            }
        ],
    }
    return base | changes


def test_credentials_of_a_kubeconfig_of_kubeadm() -> None:
    access = kube.parse_access(yaml.safe_dump(document()), "f")
    assert access == kube.Access("https://m.devenv.internal:6443", "AUTHORITY", "CERT", "KEY")
    assert "KEY" not in repr(access)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "form of a kubeconfig"),
        ("[]", "form of a kubeconfig"),
        ("a: {", "not YAML"),
        (yaml.safe_dump(document(**{"current-context": "other"})), "context other"),
        (yaml.safe_dump(document(clusters=[])), "cluster kubernetes"),
        (yaml.safe_dump(document(users=[{"name": "kubernetes-admin", "user": {}}])), "neither a client certificate"),
        (
            yaml.safe_dump(document(users=[{"name": "kubernetes-admin", "user": {"client-key-data": "%%"}}])),
            "form of a kubeconfig",
        ),
        (
            yaml.safe_dump(document(clusters=[{"name": "kubernetes", "cluster": {"server": "https://a"}}])),
            "certificate-authority-data",
        ),
        (
            yaml.safe_dump(
                document(
                    clusters=[{"name": "kubernetes", "cluster": {"server": "x", "certificate-authority-data": ""}}]
                )
            ),
            "no certificate authority",
        ),
        (
            yaml.safe_dump(
                document(
                    clusters=[
                        {"name": "kubernetes", "cluster": {"server": "http://a", "certificate-authority-data": "QQ=="}}
                    ]
                )
            ),
            "not an https address",
        ),
    ],
)
def test_an_invalid_kubeconfig_is_rejected_with_its_place(text: str, message: str) -> None:
    with pytest.raises(DevenvError, match=message) as caught:
        kube.parse_access(text, "place")
    assert caught.value.reason.id == "kubeconfig_invalid"
    assert caught.value.where == "place"


def test_the_error_for_a_broken_kubeconfig_does_not_quote_it() -> None:
    with pytest.raises(DevenvError) as caught:
        kube.parse_access("client-key-data: SECRET\n  token: {SECRET", "place")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_an_unreadable_kubeconfig_is_rejected(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DevenvError, match="cannot be read"):
        kube.read_access(file)


class Handler(BaseHTTPRequestHandler):
    """Answers by path; records the requests."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[tuple[str, str, str, str]]] = []
    answers: ClassVar[dict[str, tuple[int, str]]] = {
        "/ok": (200, '{"kind": "Node"}'),
        "/readyz": (500, "[-]etcd failed: reason withheld"),
        "/absent": (404, '{"kind": "Status", "reason": "NotFound", "message": "nodes \\"x\\" not found"}'),
        "/text": (200, "not json"),
        "/list": (200, "[]"),
        "/gone": (409, '{"reason": "Conflict", "message": "is being removed"}'),
    }

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        Handler.requests.append((self.command, self.path, self.headers.get("Content-Type") or "", body))
        if self.path == "/cut":
            self.close_connection = True
            return
        status, text = Handler.answers[self.path.partition("?")[0]]
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Token", self.headers.get("Authorization") or "")
        self.end_headers()
        self.wfile.write(text.encode())
        if "close" in self.path:
            # Unannounced, as a server closes an idle connection.
            self.close_connection = True

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kube.Access]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key", folder / "cert"
    tls.self_signed(key, certificate)
    pem = certificate.read_text()
    with tls.served(Handler, tls.server_context(key, certificate)) as port:
        yield kube.Access(f"https://127.0.0.1:{port}", pem, pem, key.read_text())


@pytest.fixture
def api(server: kube.Access) -> Iterator[kube.Api]:
    Handler.requests.clear()
    with kube.Api(server, timeout=30) as client:
        yield client


def test_requests_have_method_query_and_content_type(api: kube.Api) -> None:
    assert api.get("/ok", {"labelSelector": "a=b,c"}) == {"kind": "Node"}
    assert api.text("/text") == "not json"
    api.create("/ok", {"a": 1})
    api.merge("/ok", {"b": None})
    api.delete("/ok")
    assert Handler.requests == [
        ("GET", "/ok?labelSelector=a%3Db%2Cc", "", ""),
        ("GET", "/text", "", ""),
        ("POST", "/ok", "application/json", '{"a": 1}'),
        ("PATCH", "/ok", "application/merge-patch+json", '{"b": null}'),
        ("DELETE", "/ok", "", ""),
    ]


@pytest.mark.parametrize(
    ("path", "status", "reason", "text"),
    [
        ("/absent", 404, "NotFound", 'nodes "x" not found'),
        ("/readyz", 500, "", "[-]etcd failed: reason withheld"),
    ],
)
def test_a_rejected_request_raises_status_and_reason(
    api: kube.Api, path: str, status: int, reason: str, text: str
) -> None:
    with pytest.raises(kube.ApiError) as caught:
        api.get(path)
    assert (caught.value.status, caught.value.reason, str(caught.value)) == (status, reason, text)


@pytest.mark.parametrize("path", ["/text", "/list"])
def test_an_answer_other_than_an_object_is_an_error(api: kube.Api, path: str) -> None:
    with pytest.raises(kube.ApiUnreachable, match="not"):
        api.get(path)


@pytest.mark.parametrize("path", ["/absent", "/gone"])
def test_removing_an_absent_object_is_no_error(api: kube.Api, path: str) -> None:
    api.delete(path)
    assert Handler.requests[-1][:2] == ("DELETE", path)


def test_a_rejected_removal_raises(api: kube.Api) -> None:
    with pytest.raises(kube.ApiError, match="etcd failed"):
        api.delete("/readyz")


def test_a_request_is_repeated_if_the_server_closed_the_idle_connection(api: kube.Api) -> None:
    api.get("/ok", {"close": ""})
    assert api.get("/ok") == {"kind": "Node"}


def test_a_request_is_not_repeated_if_a_new_connection_is_cut(api: kube.Api) -> None:
    with pytest.raises(kube.ApiUnreachable):
        api.get("/cut")
    assert [row[1] for row in Handler.requests] == ["/cut"]
    assert api.get("/ok") == {"kind": "Node"}


def test_a_refused_connection_means_unreachable(server: kube.Access) -> None:
    access = kube.Access("https://127.0.0.1:1", server.authority, token="t")
    with kube.Api(access) as client, pytest.raises(kube.ApiUnreachable, match="connection refused"):
        client.get("/ok")


def test_a_certificate_of_another_ca_does_not_verify(server: kube.Access, tmp_path: Path) -> None:
    tls.self_signed(tmp_path / "key", tmp_path / "certificate")
    other = kube.Access(server.server, (tmp_path / "certificate").read_text(), token="t")
    with kube.Api(other) as client, pytest.raises(kube.ApiUnreachable, match="does not verify"):
        client.get("/ok")


def test_invalid_certificates_are_rejected_without_quoting_them() -> None:
    with pytest.raises(DevenvError, match="certificates cannot be used") as caught:
        kube.Api(kube.Access("https://127.0.0.1:1", "AUTHORITY", "CERT", "SECRET"))
    assert "SECRET" not in str(caught.value)
