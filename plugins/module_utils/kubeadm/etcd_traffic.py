"""Make a new etcd member serve requests as soon as it has joined.

etcd's leader sends a new member a snapshot of all data, as of the last write. In an idle cluster, that is the member's
own announcement of its name: the member finds it in the snapshot instead of seeing it applied, waits in vain for seven
seconds (the request timeout), announces itself again, and serves nobody meanwhile (etcd 3.6,
server/etcdserver/server.go: applyAll, publishV3). Therefore this module keeps the apply queue busy for a moment, so
that the announcement has to wait in line: with transactions that read a little and delete a key that does not exist.
They change nothing.
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

from ansible_collections.devenv.lab.plugins.module_utils.node import files, kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine

CLIENT_PORT = 2379
LIMIT = 2.0  # seconds of writing; a member that is not ready by then waits for something else
PAUSE = 0.01
# Transactions in the queue, one per connection, and those that each connection sends ahead, for moments without CPU
# time. Each takes etcd some ten milliseconds because of its reads; together they take longer than the leader needs to
# find out that the member has no data. With a tenth of the reads, every second member announced itself too early.
CONNECTIONS = 8
AHEAD = 8
READS = 40


def _key(name: str) -> str:
    return base64.b64encode(name.encode()).decode()


# Every cluster has dozens of cluster roles; the response is a single entry.
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
    """An etcd manifest: the hosts of the earlier members, the peer port, and the address of the readiness check."""

    others: tuple[str, ...]
    port: int
    ready: tuple[str, int]


def member(text: str) -> Member | None:
    """Return the member of a manifest, None if the manifest is not complete."""
    flags = dict(re.findall(r"--(initial-cluster|listen-peer-urls|listen-metrics-urls)=([^\s\"']+)", text))
    if len(flags) < 3:
        return None
    peer, metrics = urlsplit(flags["listen-peer-urls"].split(",")[0]), urlsplit(flags["listen-metrics-urls"])
    hosts = [urlsplit(entry.partition("=")[2]).hostname for entry in flags["initial-cluster"].split(",")]
    others = tuple(host for host in hosts if host and host != peer.hostname)
    return Member(others, peer.port or 0, (metrics.hostname or "", metrics.port or 0))


def listens(port: int) -> bool:
    """Return whether a program of this node listens on a TCP port."""
    rows = (files.read_text("/proc/net/tcp") + files.read_text("/proc/net/tcp6")).splitlines()
    suffix = f":{port:04X}"
    return any(row[1].endswith(suffix) and row[3] == "0A" for row in map(str.split, rows) if len(row) > 3)


def keep_busy(machine: Machine, over: threading.Event, *, limit: float = LIMIT, client_port: int = CLIENT_PORT) -> None:
    """Write to etcd from the moment when this node's new member listens until it is ready; sets ``over`` then.

    Nothing here can fail a join: without it, the member is only ready later.
    """
    new = None
    while not (new and new.others):
        if over.wait(PAUSE):
            return
        new = member(files.read_text(machine.path(kubernetes.ETCD_MANIFEST)))
    begin = threading.Event()

    def write() -> None:
        while not over.is_set():
            # ImportError: a minimal Python may lack ssl.
            with contextlib.suppress(OSError, ImportError):
                _send(machine, (new.others[0], client_port), begin, over)
            over.wait(0.1)

    # They connect while etcd's container starts.
    writers = [threading.Thread(target=write, daemon=True) for _number in range(CONNECTIONS)]
    for writer in writers:
        writer.start()
    while not listens(new.port) and not over.wait(PAUSE):
        pass
    begin.set()
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline and not machine.http_ok(*new.ready, "/readyz", timeout=1):
        if over.wait(PAUSE):
            break
    over.set()
    for writer in writers:
        writer.join(timeout=10)


def _send(machine: Machine, address: tuple[str, int], begin: threading.Event, over: threading.Event) -> None:
    import ssl

    context = ssl.create_default_context(cafile=machine.path(kubernetes.ETCD_CA))
    context.load_cert_chain(machine.path(kubernetes.ETCD_CERTIFICATE), machine.path(kubernetes.ETCD_KEY))
    with (
        socket.create_connection(address, timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=address[0]) as connection,
    ):
        while not begin.wait(0.1):
            if over.is_set():
                return
        connection.sendall(REQUEST * AHEAD)
        while not over.is_set():
            responses = connection.recv(65536)
            if not responses:
                return
            # A status line that is split between two blocks is not counted: one request less ahead.
            connection.sendall(REQUEST * responses.count(b"HTTP/1.1 "))
