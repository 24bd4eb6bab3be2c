"""Edit objects as stored in etcd, without an API server, so that a new cluster can start with them.

Kubernetes' protobuf format is the bytes ``k8s\\0``, then a ``runtime.Unknown`` whose field 2 is the object; an object's
fields 1, 2 and 3 are metadata, spec and status (k8s.io/apimachinery, ``runtime/generated.proto``; k8s.io/api,
``core/v1/generated.proto``; field numbers never change).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAGIC = b"k8s\x00"

_MIRROR = b"kubernetes.io/config.mirror"
_TOKEN_TYPE = b"kubernetes.io/service-account-token"


@dataclass(frozen=True)
class Field:
    """A field of a protobuf message: its number, all its bytes, and its value (the content of a length-delimited field,
    else the encoded number).
    """

    number: int
    raw: bytes
    value: bytes


def fields(message: bytes) -> list[Field]:
    """Return the top-level fields of a protobuf message, in order. Raises ValueError for anything else."""
    message_fields, at = [], 0
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
            raise ValueError("truncated")
        message_fields.append(Field(key >> 3, message[start:at], message[begin:at]))
    return message_fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("truncated")
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
    """Return a length-delimited field."""
    return _encoded(number << 3 | 2) + _encoded(len(value)) + value


def opened(stored: bytes) -> tuple[list[Field], list[Field]]:
    """Return the fields of the envelope and of the object in a value of etcd. Raises ValueError for another format,
    such as JSON.
    """
    if not stored.startswith(MAGIC):
        raise ValueError("not in Kubernetes' protobuf format")
    envelope = fields(stored[len(MAGIC) :])
    inner = next((field.value for field in envelope if field.number == 2), None)
    if inner is None:
        raise ValueError("the envelope contains no object")
    return envelope, fields(inner)


def closed(envelope: Sequence[Field], inner: Sequence[bytes]) -> bytes:
    """Return the value for etcd with the object's fields ``inner``."""
    parts = [delimited(2, b"".join(inner)) if field.number == 2 else field.raw for field in envelope]
    return MAGIC + b"".join(parts)


def fresh_pod(stored: bytes) -> bytes | None:
    """Return a pod reset as if it had never run, still assigned to its node; None for the mirror of a static pod.

    A completed pod is returned unchanged: otherwise it would run again.
    """
    envelope, parts = opened(stored)
    metadata = b"".join(field.value for field in parts if field.number == 1)
    if _MIRROR in metadata:
        return None
    status = [part for field in parts if field.number == 3 for part in fields(field.value)]
    phase = next((part.value for part in status if part.number == 1), b"")
    if phase in (b"Succeeded", b"Failed"):
        return stored
    # 1 phase, 9 qosClass, which the API does not allow to change.
    kept = delimited(1, b"Pending") + b"".join(part.raw for part in status if part.number == 9)
    return closed(envelope, [field.raw for field in parts if field.number != 3] + [delimited(3, kept)])


def fresh_node(stored: bytes) -> bytes:
    """Return a Node object as if kubelet had not reported yet: labels, taints and pod ranges. Of the status, only
    capacity and allocatable (1, 2) stay: kubelet reads them there, and would reject pods at first without them.
    """
    envelope, parts = opened(stored)
    status = [part.raw for field in parts if field.number == 3 for part in fields(field.value) if part.number in (1, 2)]
    kept = [field.raw for field in parts if field.number != 3]
    return closed(envelope, [*kept, delimited(3, b"".join(status))])


def fresh_secret(stored: bytes) -> bytes | None:
    """Return the Secret of a service account's token without the token, which the cluster then replaces; None for any
    other Secret, which needs no change. (2 data, 3 type.)
    """
    envelope, parts = opened(stored)
    if not any(field.number == 3 and field.value == _TOKEN_TYPE for field in parts):
        return None
    return closed(envelope, [field.raw for field in parts if field.number != 2])
