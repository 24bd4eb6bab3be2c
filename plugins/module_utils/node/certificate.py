"""Read X.509 certificates."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of the DER element at ``at``, and the start and end of its content (ITU-T X.690)."""
    length, start = data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(data[start : start + count], "big"), start + count
    return data[at], start, start + length


def parse(pem: str) -> dict[str, str]:
    """Return ``{"end": "2027-11-21T09:00:00Z", "key_hash": "sha256:..."}`` of the first certificate in a PEM text.

    {} if there is none. ``key_hash`` is over the SubjectPublicKeyInfo, as kubeadm's discovery expects it (RFC 7469).
    """
    match = re.search("-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", pem, re.DOTALL)
    if match is None:
        return {}
    try:
        der = base64.b64decode(match.group(1))
        at = _element(der, _element(der, 0)[1])[1]
        fields: list[tuple[int, int, int]] = []
        # RFC 5280: [version] serial signature issuer validity subject subjectPublicKeyInfo
        while len(fields) < 6:
            tag, start, end = _element(der, at)
            if tag != 0xA0:
                fields.append((at, start, end))
            at = end
        not_before_end = _element(der, fields[3][1])[2]
        tag, start, end = _element(der, not_before_end)
        digest = hashlib.sha256(der[fields[5][0] : fields[5][2]]).hexdigest()
        return {"end": _time(tag, der[start:end].decode("ascii")), "key_hash": "sha256:" + digest}
    except (IndexError, ValueError, binascii.Error):
        return {}


def _time(tag: int, text: str) -> str:
    """Convert UTCTime (0x17, two-digit years since 1950, RFC 5280 4.1.2.5.1) or GeneralizedTime to ISO 8601."""
    if tag == 0x17:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[8:10]}:{text[10:12]}:{text[12:14]}Z"
