"""Write addresses in URLs and ask over HTTP, with the standard library alone."""

from __future__ import annotations

import re
import socket
from typing import Any


def bracket(address: str) -> str:
    """Return an address as it stands in a URL: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def http_ok(address: str, port: int, path: str, ca: str = "", timeout: float = 3) -> bool:
    """Return whether GET answers 200; over TLS checked against the file ``ca`` when one is given."""
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
