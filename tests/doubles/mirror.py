"""A web server of files on loopback, like a mirror, that cuts connections and sends wrong answers on request."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast


@dataclass
class Mirror:
    """Serves ``root`` at ``url``.

    ``cuts`` maps a path to byte counts: each request consumes one, and its answer ends after that many bytes.
    ``answers`` maps a path to a list of (status, headers) that are sent instead, one per request. Without ``ranges``,
    the Range header is ignored, as simple servers do. ``requests`` records (path, Range header) of each request,
    ``tokens`` the Authorization headers per path.
    """

    root: Path
    url: str = ""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    ranges: bool = True
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: dict[str, list[str]] = field(default_factory=dict)

    def ranges_of(self, path: str) -> list[str]:
        """Return the Range headers of the requests for ``path``."""
        return [header for requested, header in self.requests if requested == path]


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Mirror]:
    """Serve ``root`` on a free port of 127.0.0.1 until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    mirror = Mirror(root, f"http://127.0.0.1:{server.server_address[1]}")
    server.mirror = mirror  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        mirror = cast(Mirror, self.server.mirror)  # type: ignore[attr-defined]
        path = self.path.split("?")[0]
        requested = self.headers.get("Range", "")
        mirror.requests.append((path, requested))
        mirror.tokens.setdefault(path, []).append(self.headers.get("Authorization", ""))
        if mirror.answers.get(path):
            status, headers = mirror.answers[path].pop(0)
            return self._send(status, b"", headers)
        file = mirror.root / path.lstrip("/")
        if not file.is_file():
            return self._send(404, b"not found\n", {})
        data = file.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-", requested) if mirror.ranges else None
        start = int(match.group(1)) if match else 0
        if match and start >= len(data):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if match else {}
        cuts = mirror.cuts.get(path)
        return self._send(206 if match else 200, data[start:], headers, cut=cuts.pop(0) if cuts else None)

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""
