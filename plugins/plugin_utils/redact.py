"""Take secrets out of text before it is written anywhere.

Forms: kubeadm bootstrap tokens (``[a-z0-9]{6}.[a-z0-9]{16}``) and certificate keys (32 bytes as hex), private keys in
PEM (RFC 7468) and OpenSSH form, also as base64 in kubeconfig files and Secrets, JSON web tokens, bearer and basic
credentials, passwords in URLs and assignments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# A rule keeps what stands in its group "keep" and replaces the rest of the match. Order matters: blocks before what
# may stand in them.
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "private key",
        re.compile(
            r"-----BEGIN (?P<kind>[A-Z0-9 ]*)PRIVATE KEY-----.*?(?:-----END (?P=kind)PRIVATE KEY-----|\Z)", re.DOTALL
        ),
    ),
    # The end of a block whose beginning was cut off.
    ("private key", re.compile(r"(?:[A-Za-z0-9+/=]|\\n|\s){16,}-----END [A-Z0-9 ]*PRIVATE KEY-----")),
    # base64 of "-----BEGIN" unless " CERT" follows, and of the magic of OpenSSH's private keys.
    ("private key", re.compile(r"LS0tLS1CRUdJTi(?!BDRVJU)[A-Za-z0-9+/]{16,}={0,2}")),
    ("private key", re.compile(r"b3BlbnNzaC1rZXktdjE[A-Za-z0-9+/\s]{16,}={0,2}")),
    ("private key", re.compile(r"(?P<keep>client-key-data\W{1,8})[A-Za-z0-9+/]{16,}={0,2}")),
    (
        "certificate key",
        re.compile(r"(?P<keep>certificate[-_ ]?key.{0,40}?)\b[0-9a-f]{64}\b", re.IGNORECASE | re.DOTALL),
    ),
    ("web token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
    ("bootstrap token", re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")),
    ("credential", re.compile(r"(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/-]{8,}={0,2}", re.IGNORECASE)),
    ("credential", re.compile(r"(?P<keep>[a-z][a-z0-9+.-]*://[^\s/:@'\"]*:)[^\s/@'\"]+(?=@)", re.IGNORECASE)),
    (
        "credential",
        re.compile(
            r"(?P<keep>\b[a-z_-]*(?:passw(?:or)?d|token-secret|client-secret|api-?key)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;}]{3,}",
            re.IGNORECASE,
        ),
    ),
)


def redact(text: str, values: Iterable[str] = ()) -> str:
    """``text`` with every secret replaced by ``[<kind> redacted]``; ``values`` are further strings that must not
    appear.
    """
    for value in values:
        if value:
            text = text.replace(value, "[secret redacted]")
    for kind, rule in _RULES:
        text = rule.sub(lambda match, kind=kind: f"{match.groupdict().get('keep') or ''}[{kind} redacted]", text)
    return text


def find(text: str) -> list[str]:
    """Kinds of secrets in ``text``, one for each find. Text that ``redact`` returned has none."""
    return [kind for kind, rule in _RULES for match in rule.finditer(text) if "redacted]" not in match.group(0)]
