"""Let a new member of etcd serve as soon as it is one.

etcd's leader sends a new member all data as they stand after the write that it is at. Where nobody else writes, that is
the member's own announcement of its name: the member finds it among the data instead of seeing it applied, waits in
vain for seven seconds (the request timeout), announces itself again, and serves nobody before (etcd 3.6,
server/etcdserver/server.go: applyAll, publishV3). So for a moment somebody else writes so much that the announcement
has to wait in line: transactions that read a little and delete a key that nobody has. They change nothing.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import threading
import time
from typing import NamedTuple
from urllib.parse import urlsplit

from ansible_collections.devenv.lab.plugins.module_utils.node import background, files, kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine

CLIENT_PORT = 2379
LIMIT = 2.0  # seconds of writing; a member that is not ready by then waits for something else
# Transactions that wait for their turn, one a connection, and what each connection has sent ahead, for when this node
# has no time to ask. Each takes etcd some ten milliseconds by its reads; together they are longer than the leader needs
# to learn that the member has no data. With a tenth of the reads every second member announced itself too early.
CONNECTIONS = 8
AHEAD = 8
READS = 40


def _key(name: str) -> str:
    return base64.b64encode(name.encode()).decode()


# Of what every cluster has some dozens, with one entry as the answer.
READ = {
    "requestRange": {
        "key": _key("/registry/clusterroles/"),
        "rangeEnd": _key("/registry/clusterroles0"),
        "sortTarget": "MOD",
        "sortOrder": "DESCEND",
        "limit": "1",
        "keysOnly": True,
    }
}
BODY = json.dumps({"success": [{"requestDeleteRange": {"key": _key("devenv/nothing")}}, *[READ] * READS]})
REQUEST = f"POST /v3/kv/txn HTTP/1.1\r\nHost: etcd\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()


class Member(NamedTuple):
    """What this node's manifest of etcd says: hosts of the members before it, its port for members, where it tells
    whether it is ready.
    """

    others: tuple[str, ...]
    port: int
    ready: tuple[str, int]


def member(text: str) -> Member | None:
    """Return the member of a manifest; None as long as that is not whole."""
    found = dict(re.findall(r"--(initial-cluster|listen-peer-urls|listen-metrics-urls)=([^\s\"']+)", text))
    if len(found) < 3:
        return None
    own, metrics = urlsplit(found["listen-peer-urls"].split(",")[0]), urlsplit(found["listen-metrics-urls"])
    peers = [urlsplit(entry.partition("=")[2]).hostname for entry in found["initial-cluster"].split(",")]
    others = tuple(host for host in peers if host and host != own.hostname)
    return Member(others, own.port or 0, (metrics.hostname or "", metrics.port or 0))


def listens(port: int) -> bool:
    """Return whether a program of this node waits for connections at a TCP port."""
    rows = (files.read_text("/proc/net/tcp") + files.read_text("/proc/net/tcp6")).splitlines()
    wanted = f":{port:04X}"
    return any(row[1].endswith(wanted) and row[3] == "0A" for row in map(str.split, rows) if len(row) > 3)


class EtcdTraffic(background.BackgroundTask):
    """Writes to etcd from the moment when this node's new member listens until it is ready.

    Nothing of it can fail a join: without it, a member is ready later.
    """

    def __init__(
        self, machine: Machine, pause: float = 0.01, limit: float = LIMIT, client_port: int = CLIENT_PORT
    ) -> None:
        super().__init__(pause)
        self._machine, self._limit, self._client_port = machine, limit, client_port
        self._begin = threading.Event()

    def _work(self) -> None:
        found = None
        while not (found and found.others):
            if self._over.wait(self._pause):
                return
            found = member(files.read_text(self._machine.path(kubernetes.ETCD_MANIFEST)))
        # Their connections are made while etcd's container starts.
        hosts = found.others[:1] * CONNECTIONS
        writers = [threading.Thread(target=self._write, args=(host,), daemon=True) for host in hosts]
        for writer in writers:
            writer.start()
        while not listens(found.port) and not self._over.wait(self._pause):
            pass
        self._begin.set()
        deadline = time.monotonic() + self._limit
        while time.monotonic() < deadline and not self._machine.http_ok(*found.ready, "/readyz", timeout=1):
            if self._over.wait(self._pause):
                break
        self._over.set()
        for writer in writers:
            writer.join(timeout=10)

    def _write(self, host: str) -> None:
        while not self._over.is_set():
            # ImportError: not every small python has ssl.
            with contextlib.suppress(OSError, ImportError):
                self._pour(host)
            self._over.wait(0.1)

    def _pour(self, host: str) -> None:
        import ssl

        context = ssl.create_default_context(cafile=self._machine.path(kubernetes.ETCD_CA))
        path = self._machine.path
        context.load_cert_chain(path(kubernetes.ETCD_CERTIFICATE), path(kubernetes.ETCD_KEY))
        with (
            socket.create_connection((host, self._client_port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            while not self._begin.wait(0.1):
                if self._over.is_set():
                    return
            connection.sendall(REQUEST * AHEAD)
            while not self._over.is_set():
                answers = connection.recv(65536)
                if not answers:
                    return
                # A status line that two blocks share is not counted: one request less ahead.
                connection.sendall(REQUEST * answers.count(b"HTTP/1.1 "))
