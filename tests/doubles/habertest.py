"""A habertest service: provisioner and heartbeat server in one, with a given list of machines.

It requires a client certificate of its own CA. It returns machines in reverse order, since their order has no meaning,
and takes machines back that had no heartbeat for ``lease`` seconds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# RFC 6455, section 1.3.
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass
class Service:
    """``free``: unallocated machines; ``jobs``: machines by allocation; ``demands``: the requested machines, in order;
    ``busy``: number of the next requests that get the answer busy.
    """

    free: list[dict[str, Any]]
    lease: float = 60
    busy: int = 0
    jobs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    expires: dict[str, float] = field(default_factory=dict)
    demands: list[dict[str, Any]] = field(default_factory=list)
    requestors: list[dict[str, Any]] = field(default_factory=list)
    beats: int = 0
    released: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def allocate(self, message: dict[str, Any]) -> dict[str, Any]:
        data = message["data"]
        with self.lock:
            self._expire()
            self.demands.append(data["demands"])
            self.requestors.append(data["requestor"])
            if self.busy:
                self.busy -= 1
                return {"status": "busy"}
            count = len(data["demands"])
            if count > len(self.free):
                return {"status": "unfulfillable", "message": f"{len(self.free)} machines are free"}
            given, self.free = self.free[:count], self.free[count:]
            self.jobs[data["allocation_id"]] = given
            self.expires[data["allocation_id"]] = time.monotonic() + self.lease
            return {"status": "success", "hardware_details": list(reversed(given))}

    def give_back(self, allocation: str) -> bool:
        with self.lock:
            self.released.append(allocation)
            return self._free(allocation)

    def beat(self, allocation: str) -> bool:
        with self.lock:
            self.beats += 1
            self._expire()
            if allocation not in self.jobs:
                return False
            self.expires[allocation] = time.monotonic() + self.lease
            return True

    def known(self, allocation: str) -> bool:
        with self.lock:
            self._expire()
            return allocation in self.jobs

    def _expire(self) -> None:
        for allocation in [name for name, end in self.expires.items() if end < time.monotonic()]:
            self._free(allocation)

    def _free(self, allocation: str) -> bool:
        self.expires.pop(allocation, None)
        given = self.jobs.pop(allocation, None)
        self.free += given or []
        return given is not None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        if self.path == "/api/ws/jobs":
            self._websocket()
        elif self.path.startswith("/api/jobs/"):
            allocation = self.path.rpartition("/")[2]
            self._answer(200, {"status": 200 if self.server.service.known(allocation) else 404})
        else:
            self._answer(200, {"data": sorted(self.server.service.jobs)})

    def do_DELETE(self) -> None:
        existed = self.server.service.give_back(self.path.rpartition("/")[2])
        self._answer(200 if existed else 404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(200 if self.server.service.beat(body["allocation_id"]) else 404, {})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _websocket(self) -> None:
        key = self.headers["Sec-WebSocket-Key"] + _GUID
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        answer = json.dumps(self.server.service.allocate(json.loads(self._frame()))).encode()
        # A final text frame, unmasked, as RFC 6455 requires of a server.
        length = bytes([len(answer)]) if len(answer) < 126 else struct.pack(">BH", 126, len(answer))
        self.wfile.write(b"\x81" + length + answer)
        self.close_connection = True

    def _frame(self) -> bytes:
        """Return the payload of one masked frame."""
        length = self.rfile.read(2)[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self.rfile.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.rfile.read(8))
        mask = self.rfile.read(4)
        return bytes(byte ^ mask[place % 4] for place, byte in enumerate(self.rfile.read(length)))


class Server(ThreadingHTTPServer):
    """The service at ``url``. ``cert`` and ``key`` are its own, ``ca`` is the CA of its clients."""

    def __init__(self, service: Service, cert: Path, key: Path, ca: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service = service
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://localhost:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # the client was refused or disconnected
