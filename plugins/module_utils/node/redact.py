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
    # base64 of "-----BEGIN" unless " CERT" follows, and of the magic of OpenSSH's private keys.
    ("private key", re.compile(r"LS0tLS1CRUdJTi(?!BDRVJU)[A-Za-z0-9+/]{16,}={0,2}")),
    ("private key", re.compile(r"b3BlbnNzaC1rZXktdjE[A-Za-z0-9+/\s]{16,}={0,2}")),
    ("private key", re.compile(r"(?P<keep>client-key-data\W{1,8})[A-Za-z0-9+/]{16,}={0,2}")),
    (
        "certificate key",
        re.compile(
            r"(?P<keep>certificate[-_ ]?key.{0,40}?)(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", re.IGNORECASE | re.DOTALL
        ),
    ),
    ("web token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
    ("bootstrap token", re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")),
    ("credential", re.compile(r"(?P<keep>\bbearer\s+)[A-Za-z0-9._~+/-]{16,}={0,2}", re.IGNORECASE)),
    ("credential", re.compile(r"(?P<keep>authorization\W{1,6}\w+\s+)[A-Za-z0-9._~+/-]{4,}={0,2}", re.IGNORECASE)),
    ("credential", re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@'\"]*:)[^\s/@'\"]+(?=@)", re.IGNORECASE)),
    (
        "credential",
        re.compile(
            r"(?P<keep>(?:passw(?:or)?d|token-secret|client-secret|api-?key)[\"']?\s*[:=]\s*[\"']?)"
            r"(?!\[[a-z ]+ redacted\])[^\s\"',;}]{3,}",
            re.IGNORECASE,
        ),
    ),
)


_KEY_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----")
_KEY_BODY = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\ \t\r\n")


def redact(text: str, values: Iterable[str] = ()) -> str:
    """``text`` with every secret replaced by ``[<kind> redacted]``; ``values`` are further strings that must not
    appear.
    """
    for value in values:
        if value:
            text = text.replace(value, "[secret redacted]")
    for kind, rule in _RULES:
        # A rule without the group "keep" replaces its whole match.
        kept = r"\g<keep>" if "keep" in rule.groupindex else ""
        text = rule.sub(f"{kept}[{kind} redacted]", text)
    for begin, end in reversed(_headless(text)):
        text = f"{text[:begin]}[private key redacted]{text[end:]}"
    return text


def find(text: str) -> list[str]:
    """Kinds of secrets in ``text``, one for each find. Text that ``redact`` returned has none."""
    found = [kind for kind, rule in _RULES for match in rule.finditer(text) if "redacted]" not in match.group(0)]
    return found or ["private key"] * len(_headless(text))


def _headless(text: str) -> list[tuple[int, int]]:
    """Places of private keys in PEM form whose beginning was cut off. Walked backwards: a pattern would be slow on
    long base64.
    """
    found = []
    for match in _KEY_END.finditer(text):
        begin = match.start()
        while begin > 0 and text[begin - 1] in _KEY_BODY:
            begin -= 1
        found.append((begin, match.end()))
    return found
