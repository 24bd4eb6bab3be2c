"""Read and write a saved etcd database: restore it as members, serve it for editing."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program, wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.net import bracketed

_PAGE = 50
_KEYS_PAGE = 2000
_BATCH = 100
_BATCH_BYTES = 500_000
# Generous: a restored member has one database and no peers.
_START_SECONDS = 60


@dataclass(frozen=True)
class EtcdMember:
    """An etcd member of a new cluster: the node's name and its peer address."""

    name: str
    address: str

    @property
    def url(self) -> str:
        """The peer URL as kubeadm writes it."""
        return f"https://{bracketed(self.address)}:2380"


def restore(etcdutl: Path, database: Path, target: Path, member: str, url: str, cluster: str, token: str) -> None:
    """Create the data folder ``target`` of one member from a database.

    ``cluster`` is etcd's ``name=url,...``; members of one cluster share ``token``. Raises DevenvError
    ``snapshot_failed``.
    """
    argv = [
        str(etcdutl), "snapshot", "restore", str(database), "--skip-hash-check", f"--data-dir={target}",
        f"--name={member}", f"--initial-advertise-peer-urls={url}", f"--initial-cluster={cluster}",
        f"--initial-cluster-token={token}",
    ]  # fmt: skip
    try:
        program.run(argv, timeout=600)
    except (OSError, program.ProgramFailed) as error:
        raise DevenvError("snapshot_failed", f"etcd's data cannot be restored: {error}") from error


@dataclass(frozen=True)
class Programs:
    """Binaries of the bundle, for this machine."""

    etcd: Path
    etcdutl: Path


class _Socket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Store:
    """The keys and values of an etcd that listens on a Unix socket, through its JSON gateway
    (https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = _Socket(path, 30)

    def close(self) -> None:
        self._connection.close()

    def request(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request. Raises OSError, HTTPException, and ValueError with etcd's message."""
        self._connection.request("POST", f"/v3/{path}", json.dumps(body))
        response = self._connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise ValueError(data.decode(errors="replace")[:300])
        return dict(json.loads(data))

    def keys(self, prefix: str) -> list[str]:
        """Return all keys that begin with ``prefix``."""
        return [key for key, _ignored in self._pages(prefix, _KEYS_PAGE, keys_only=True)]

    def items(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Return the keys that begin with ``prefix``, with their values."""
        return self._pages(prefix, _PAGE, keys_only=False)

    def _pages(self, prefix: str, limit: int, *, keys_only: bool) -> Iterator[tuple[str, bytes]]:
        start, end = prefix.encode(), _after(prefix.encode())
        while True:
            body = {"key": _text(start), "range_end": _text(end), "limit": limit, "keys_only": keys_only}
            try:
                answer = self.request("kv/range", body)
            except ValueError:
                # An answer is limited to 4 MiB: request large values one by one.
                if limit == 1:
                    raise
                limit = 1
                continue
            rows = answer.get("kvs", [])
            for row in rows:
                yield base64.b64decode(row["key"]).decode(), base64.b64decode(row.get("value", ""))
            if not answer.get("more"):
                return
            start = base64.b64decode(rows[-1]["key"]) + b"\x00"

    def change(self, puts: Mapping[str, bytes], deletions: Sequence[str]) -> None:
        """Write ``puts`` and remove the keys ``deletions``."""
        batch: list[dict[str, Any]] = []
        size = 0
        for key, value in [*puts.items(), *((key, None) for key in deletions)]:
            length = len(value or b"")
            if batch and (len(batch) == _BATCH or size + length > _BATCH_BYTES):
                self.request("kv/txn", {"success": batch})
                batch, size = [], 0
            encoded = {"key": _text(key.encode())}
            if value is None:
                batch.append({"request_delete_range": encoded})
            else:
                batch.append({"request_put": encoded | {"value": _text(value)}})
            size += length
        if batch:
            self.request("kv/txn", {"success": batch})

    def compact(self) -> None:
        """Drop all revisions but the last, and free their space."""
        revision = self.request("kv/range", {"key": _text(b"\x00"), "limit": 1, "keys_only": True})["header"][
            "revision"
        ]
        self.request("kv/compaction", {"revision": revision, "physical": True})
        self.request("maintenance/defragment", {})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _after(prefix: bytes) -> bytes:
    """Return the first key after all keys that begin with ``prefix`` (which does not end in 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


@contextlib.contextmanager
def running(binary: Path, data: Path) -> Iterator[Store]:
    """Run an etcd on ``data`` (created by ``restore`` with one member) that only this process can reach: it listens on
    sockets in the private folder that contains its data.
    """
    folder = data.parent
    # etcd takes the host part of a unix:// address as a path in its working directory.
    client, peer = "client:0", "peer:0"
    argv = [
        str(binary), f"--data-dir={data.name}", "--name=saved", "--log-level=error", "--unsafe-no-fsync",
        f"--listen-client-urls=unix://{client}", f"--advertise-client-urls=unix://{client}",
        f"--listen-peer-urls=unix://{peer}", f"--initial-advertise-peer-urls=unix://{peer}",
        f"--initial-cluster=saved=unix://{peer}", "--max-txn-ops=1024", "--max-request-bytes=8388608",
    ]  # fmt: skip
    with open(folder / "etcd.log", "wb") as log:
        child = subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            store = Store(str(folder / client))
            _wait(store, child, folder / "etcd.log")
            try:
                yield store
            finally:
                store.close()
        finally:
            child.terminate()
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(store: Store, child: subprocess.Popen[bytes], log: Path) -> None:
    def failure() -> DevenvError:
        output = log.read_text(errors="replace")[-400:]
        return DevenvError("snapshot_failed", f"etcd does not serve the saved data: {output}")

    def answers() -> bool:
        if child.poll() is not None:
            raise failure()
        try:
            store.request("kv/range", {"key": _text(b"\x00"), "limit": 1})
        except (OSError, http.client.HTTPException, ValueError):
            store.close()
            return False
        return True

    wait.until(answers, time.monotonic() + _START_SECONDS, failure, pause=0.02)
