"""Servers on loopback, with TLS or without, and certificates for them."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def self_signed(
    key: Path,
    certificate: Path,
    *,
    kind: Sequence[str] = EC,
    name: str = "test",
    days: int = 1,
    address: str = "127.0.0.1",
) -> None:
    """A certificate of its own authority for ``address``, as ``openssl req`` makes it."""
    words = ["-nodes", "-days", str(days), "-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{address}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", "-x509", *kind, *words, *files], check=True, capture_output=True)


def server_context(key: Path, certificate: Path, *, ask_client: bool = False) -> ssl.SSLContext:
    """``ask_client``: serve only who shows a certificate of the same authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if ask_client:
        context.load_verify_locations(certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def served(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a server that answers by ``handler``; with a context, in TLS."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
