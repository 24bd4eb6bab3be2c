"""Write addresses in URLs and send HTTP requests, with the standard library only."""

from __future__ import annotations

import re
import socket
from typing import Any


def bracket(address: str) -> str:
    """Return an address in the form of URLs: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def http_ok(address: str, port: int, path: str, ca: str = "", timeout: float = 3) -> bool:
    """Return whether the response to a GET is 200; with the CA file ``ca``, over verified TLS."""
    return http_status(address, port, path, ca, timeout) == 200


def http_status(
    address: str, port: int, path: str, ca: str = "", timeout: float = 3, certificate: str = ""
) -> int | None:
    """Return the status of the response to a GET, None without one; with the CA file ``ca``, over verified TLS, as the
    client of the PEM file ``certificate``, if given.
    """
    try:
        with socket.create_connection((address, port), timeout=timeout) as plain:
            plain.settimeout(timeout)
            if not ca:
                return _get(plain, address, path)
            import ssl  # a minimal Python may lack it

            context = ssl.create_default_context(cafile=ca)
            if certificate:
                context.load_cert_chain(certificate)
            with context.wrap_socket(plain, server_hostname=address) as wrapped:
                return _get(wrapped, address, path)
    except (OSError, ImportError, ValueError):
        return None


def _get(connection: Any, host: str, path: str) -> int | None:
    connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    response = b""
    while b"\r\n" not in response and len(response) < 4096:
        block = connection.recv(4096)
        if not block:
            break
        response += block
    match = re.match(rb"HTTP/1\.[01] (\d{3}) ", response)
    return int(match.group(1)) if match else None
