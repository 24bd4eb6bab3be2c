"""etcd's data of a saved cluster: what belongs to the old cluster alone is taken out, members of a new one are made.

Objects are edited as they stand in etcd, without an API server: Kubernetes' protobuf form is the bytes ``k8s\\0``, then
a ``runtime.Unknown`` whose field 2 is the object; an object's fields 1, 2 and 3 are metadata, spec and status
(k8s.io/apimachinery, ``runtime/generated.proto``; k8s.io/api, ``core/v1/generated.proto``; field numbers never change).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program as process
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import pod_probes

MAGIC = b"k8s\x00"
REGISTRY = "/registry/"

# What only the old cluster had a use for: heartbeats and elections, addresses of its API servers, events, requests for
# certificates, and the configuration that kubeadm writes anew.
DROPPED_PREFIXES = (
    "/registry/events/",
    "/registry/leases/",
    "/registry/masterleases/",
    "/registry/peerserverleases/",
    "/registry/certificatesigningrequests/",
    "/registry/csinodes/",
    "/registry/volumeattachments/",
    "/registry/secrets/kube-system/bootstrap-token-",
    # What kubeadm grants to nodes and tokens: it makes them anew, with fewer requests than it takes to look at them.
    "/registry/clusterroles/kubeadm:",
    "/registry/clusterrolebindings/kubeadm:apiserver-kubelet-client",
    "/registry/clusterrolebindings/kubeadm:get-nodes",
    "/registry/clusterrolebindings/kubeadm:kubelet-bootstrap",
    "/registry/clusterrolebindings/kubeadm:node-autoapprove-",
    "/registry/roles/kube-public/kubeadm:",
    "/registry/rolebindings/kube-public/kubeadm:",
    "/registry/roles/kube-system/kubeadm:",
    "/registry/rolebindings/kube-system/kubeadm:",
)
DROPPED_KEYS = (
    "/registry/configmaps/kube-public/cluster-info",
    # The API server would add its new authorities to the old ones and go on trusting both.
    "/registry/configmaps/kube-system/extension-apiserver-authentication",
    "/registry/configmaps/kube-system/kubeadm-config",
    "/registry/configmaps/kube-system/kubelet-config",
    "/registry/configmaps/kube-system/kube-proxy",
    "/registry/secrets/kube-system/kubeadm-certs",
    "/registry/services/endpoints/default/kubernetes",
    "/registry/endpointslices/default/kubernetes",
)
ROOT_CA = "kube-root-ca.crt"
_MIRROR = b"kubernetes.io/config.mirror"
# Labels of what the controllers make from pods, and will make again.
_DERIVED = (b"endpointslice-controller.k8s.io", b"endpoint-controller", b"endpointslicemirroring-controller.k8s.io")
_TOKEN_TYPE = b"kubernetes.io/service-account-token"

_PAGE = 50
_KEYS_PAGE = 2000
_BATCH = 100
# Never a limit in practice: a restored member has one database and no peers to ask.
_START_SECONDS = 60


# --- objects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """One field of a protobuf message: its number, its whole bytes, and its value (content of a length-delimited
    field, else the encoded number).
    """

    number: int
    raw: bytes
    value: bytes


def fields(message: bytes) -> list[Field]:
    """The top-level fields of a protobuf message, in order. Raises ValueError for what is none."""
    found, at = [], 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        kind, begin = key & 7, at
        if kind == 0:
            _ignored, at = _varint(message, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            length, begin = _varint(message, at)
            at = begin + length
        elif kind == 5:
            at += 4
        else:
            raise ValueError(f"wire type {kind}")
        if at > len(message) or not key >> 3:
            raise ValueError("cut short")
        found.append(Field(key >> 3, message[start:at], message[begin:at]))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("cut short")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def delimited(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return _encoded(number << 3 | 2) + _encoded(len(value)) + value


def opened(stored: bytes) -> tuple[list[Field], list[Field]]:
    """The envelope's fields and the object's of a value in etcd. Raises ValueError for another form, as JSON."""
    if not stored.startswith(MAGIC):
        raise ValueError("not in Kubernetes' protobuf form")
    envelope = fields(stored[len(MAGIC) :])
    inner = next((field.value for field in envelope if field.number == 2), None)
    if inner is None:
        raise ValueError("an envelope without an object")
    return envelope, fields(inner)


def closed(envelope: Sequence[Field], inner: Sequence[bytes]) -> bytes:
    """The value for etcd with the object's fields ``inner``."""
    parts = [delimited(2, b"".join(inner)) if field.number == 2 else field.raw for field in envelope]
    return MAGIC + b"".join(parts)


def fresh_pod(stored: bytes) -> bytes | None:
    """A pod as if it had never run, on the node that it was given; None for one that only mirrors a file of a node.

    A pod that has done its work stays as it is: it would do it again.
    """
    envelope, parts = opened(stored)
    metadata = b"".join(field.value for field in parts if field.number == 1)
    if _MIRROR in metadata:
        return None
    status = [one for field in parts if field.number == 3 for one in fields(field.value)]
    phase = next((one.value for one in status if one.number == 1), b"")
    if phase in (b"Succeeded", b"Failed"):
        return stored
    # 1 phase, 9 qosClass, which the API lets nobody change.
    kept = delimited(1, b"Pending") + b"".join(one.raw for one in status if one.number == 9)
    return closed(envelope, [field.raw for field in parts if field.number != 3] + [delimited(3, kept)])


def fresh_node(stored: bytes) -> bytes:
    """A Node object whose kubelet has not reported yet: labels, taints and pod ranges. Of the status only capacity and
    allocatable (1, 2) stay: kubelet reads them there, and would take no pod at first.
    """
    envelope, parts = opened(stored)
    status = [one.raw for field in parts if field.number == 3 for one in fields(field.value) if one.number in (1, 2)]
    kept = [field.raw for field in parts if field.number != 3]
    return closed(envelope, [*kept, delimited(3, b"".join(status))])


def fresh_secret(stored: bytes) -> bytes | None:
    """A Secret of a service account's token without the token, which the cluster then fills with a new one; None for
    any other Secret: it stays as it is. (2 data, 3 type.)
    """
    envelope, parts = opened(stored)
    if not any(field.number == 3 and field.value == _TOKEN_TYPE for field in parts):
        return None
    return closed(envelope, [field.raw for field in parts if field.number != 2])


def is_derived(stored: bytes) -> bool:
    """Whether endpoints were written by a controller, from pods."""
    return any(mark in stored for mark in _DERIVED)


# --- etcd ------------------------------------------------------------------------------------------------------------


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
    """Keys and values of an etcd that listens on a Unix socket, by its JSON gateway
    (https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = _Socket(path, 30)

    def close(self) -> None:
        self._connection.close()

    def ask(self, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One request. Raises OSError, http.client.HTTPException, and ValueError with etcd's own words."""
        self._connection.request("POST", f"/v3/{what}", json.dumps(body))
        response = self._connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise ValueError(data.decode(errors="replace")[:300])
        found = json.loads(data)
        return dict(found)

    def keys(self, prefix: str) -> list[str]:
        """All keys that begin with ``prefix``."""
        return [key for key, _ignored in self._pages(prefix, _KEYS_PAGE, keys_only=True)]

    def items(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Keys with their values."""
        return self._pages(prefix, _PAGE, keys_only=False)

    def _pages(self, prefix: str, limit: int, *, keys_only: bool) -> Iterator[tuple[str, bytes]]:
        start, end = prefix.encode(), _after(prefix.encode())
        while True:
            body = {"key": _text(start), "range_end": _text(end), "limit": limit, "keys_only": keys_only}
            try:
                answer = self.ask("kv/range", body)
            except ValueError:
                # One answer holds 4 MiB: large values are asked for one by one.
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
        steps: list[tuple[dict[str, Any], int]] = [
            ({"request_put": {"key": _text(key.encode()), "value": _text(value)}}, len(value))
            for key, value in puts.items()
        ]
        steps += [({"request_delete_range": {"key": _text(key.encode())}}, 0) for key in deletions]
        batch: list[dict[str, Any]] = []
        size = 0
        for step, length in steps:
            if batch and (len(batch) == _BATCH or size + length > 500_000):
                self.ask("kv/txn", {"success": batch})
                batch, size = [], 0
            batch.append(step)
            size += length
        if batch:
            self.ask("kv/txn", {"success": batch})

    def compact(self) -> None:
        """Forget all revisions but the last, and give their space back."""
        revision = self.ask("kv/range", {"key": _text(b"\x00"), "limit": 1, "keys_only": True})["header"]["revision"]
        self.ask("kv/compaction", {"revision": revision, "physical": True})
        self.ask("maintenance/defragment", {})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _after(prefix: bytes) -> bytes:
    """The first key behind all that begin with ``prefix`` (which ends in no 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


@contextlib.contextmanager
def running(program: Path, data: Path) -> Iterator[Store]:
    """An etcd on ``data`` (made by ``restore`` with one member), reached by nobody but this process: it listens on
    sockets in the private folder beside its data.
    """
    folder = data.parent
    # etcd takes the host part of a unix:// address as a path below its working folder.
    client, peer = "client:0", "peer:0"
    argv = [
        str(program), f"--data-dir={data.name}", "--name=saved", "--log-level=error", "--unsafe-no-fsync",
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
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            store.ask("kv/range", {"key": _text(b"\x00"), "limit": 1})
            return
        except (OSError, http.client.HTTPException, ValueError):
            store.close()
        if child.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-400:]
            raise DevenvError("snapshot_failed", f"etcd does not serve the saved data: {said}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Member:
    """An etcd member of the new cluster: the node's name and the address that others reach it by."""

    name: str
    address: str

    @property
    def url(self) -> str:
        """The peer URL as kubeadm writes it."""
        return f"https://[{self.address}]:2380" if ":" in self.address else f"https://{self.address}:2380"


def restore(etcdutl: Path, database: Path, target: Path, member: str, url: str, cluster: str, token: str) -> None:
    """Make the data folder ``target`` of one member from a database. ``cluster`` is etcd's ``name=url,...``; members of
    one cluster share ``token``. Raises DevenvError ``snapshot_failed``.
    """
    argv = [
        str(etcdutl), "snapshot", "restore", str(database), "--skip-hash-check", f"--data-dir={target}",
        f"--name={member}", f"--initial-advertise-peer-urls={url}", f"--initial-cluster={cluster}",
        f"--initial-cluster-token={token}",
    ]  # fmt: skip
    try:
        process.run(argv, timeout=600)
    except (OSError, process.ProgramFailed) as error:
        raise DevenvError("snapshot_failed", f"etcd's data cannot be restored: {error}") from error


@dataclass(frozen=True)
class Programs:
    """Programs of the bundle, for this machine."""

    etcd: Path
    etcdutl: Path


def clean(
    programs: Programs, saved: Path, target: Path, scratch: Path, nodes: Sequence[str],
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, int]:  # fmt: skip
    """Write to ``target`` the database ``saved`` (of etcdctl) without what only the old cluster had a use for.

    ``nodes`` are the names of the Node objects that stay. ``scratch`` is a private folder for the work. Returns how
    many objects were kept, changed and removed. Raises DevenvError ``snapshot_failed``, ``snapshot_encrypted``.
    """
    data = scratch / "data"
    restore(programs.etcdutl, saved, data, "saved", "unix://peer:0", "saved=unix://peer:0", "saved")
    try:
        with running(programs.etcd, data) as store:
            puts, deletions = edits(store, nodes)
            progress(f"etcd: {len(puts)} objects made fresh, {len(deletions)} left out")
            store.change(puts, deletions)
            kept = len(store.keys(REGISTRY))
            store.compact()
    except (OSError, http.client.HTTPException) as error:
        raise DevenvError("snapshot_failed", f"etcd with the saved data: {error}") from error
    except ValueError as error:
        raise DevenvError("snapshot_failed", f"the saved data are not as expected: {error}") from error
    shutil.copyfile(data / "member" / "snap" / "db", target)
    os.chmod(target, 0o600)
    shutil.rmtree(data)
    return {"kept": kept, "changed": len(puts), "removed": len(deletions)}


def _is_dropped(key: str) -> bool:
    return (
        key.startswith(DROPPED_PREFIXES)
        or (key.startswith("/registry/configmaps/") and key.endswith(f"/{ROOT_CA}"))
        # What the last validation made may still be on its way out.
        or f"/{pod_probes.NAMESPACE}" in key
    )


def edits(store: Store, nodes: Sequence[str]) -> tuple[dict[str, bytes], list[str]]:
    """What to write and what to remove. Raises ValueError for an object in an unknown form, DevenvError
    ``snapshot_encrypted``.
    """
    deletions = [*DROPPED_KEYS, *(key for key in store.keys(REGISTRY) if _is_dropped(key))]
    puts: dict[str, bytes] = {}
    for key, value in store.items("/registry/minions/"):
        if key.rpartition("/")[2] in nodes:
            puts[key] = fresh_node(value)
        else:
            deletions.append(key)
    for key, value in store.items("/registry/pods/"):
        pod = fresh_pod(value)
        if pod is None:
            deletions.append(key)
        elif pod != value:
            puts[key] = pod
    for key, value in store.items("/registry/secrets/"):
        if value.startswith(b"k8s:enc:"):
            raise DevenvError("snapshot_encrypted", "Secrets are encrypted in etcd, with a key that would not go along")
        secret = None if key in deletions else fresh_secret(value)
        if secret is not None:
            puts[key] = secret
    for prefix in ("/registry/endpointslices/", "/registry/services/endpoints/"):
        deletions += [key for key, value in store.items(prefix) if is_derived(value)]
    gone = dict.fromkeys(deletions)
    return {key: value for key, value in puts.items() if key not in gone}, list(gone)
