"""Remove secrets from text before it is written anywhere.

Forms: tokens of Gravity, kubeadm bootstrap tokens (``[a-z0-9]{6}.[a-z0-9]{16}``) and certificate keys (32 bytes as
hex), private keys in PEM (RFC 7468) and OpenSSH form, also as base64 in kubeconfig files and Secrets, JSON web tokens,
bearer and basic credentials, passwords in URLs and assignments.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import shlex
from collections.abc import Iterable
from urllib.parse import quote

# Kind and pattern. A rule keeps its group "keep" and replaces the rest of the match. The order matters: first blocks,
# then what they may contain.
_PATTERNS = (
    ("private key", r"(?s)-----BEGIN (?P<kind>[A-Z0-9 ]*)PRIVATE KEY-----.*?(?:-----END (?P=kind)PRIVATE KEY-----|\Z)"),
    # base64 of "-----BEGIN" unless " CERT" follows, and of the magic number of OpenSSH's private keys.
    ("private key", r"LS0tLS1CRUdJTi(?!BDRVJU)[A-Za-z0-9+/]{16,}={0,2}"),
    ("private key", r"b3BlbnNzaC1rZXktdjE[A-Za-z0-9+/\s]{16,}={0,2}"),
    ("private key", r"(?P<keep>client-key-data\W{1,8})[A-Za-z0-9+/]{16,}={0,2}"),
    ("certificate key", r"(?is)(?P<keep>certificate[-_ ]?key.{0,40}?)(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])"),
    ("web token", r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    ("bootstrap token", r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"),
    # Gravity's tokens have no recognizable form.
    (
        "token",
        r"(?i)(?P<keep>--token[= ]|[\"']token[\"']\s*:\s*[\"']|\b(?:join|install|access|secret) token:\s*)"
        r"(?!\[[a-z ]+ redacted\])[^\s\"']{3,}",
    ),
    # After "token:", only a word with a digit: "token: unauthorized" is an error message.
    ("token", r"(?i)(?P<keep>\btoken:\s+[\"']?)(?!\[)(?=[^\s\"']*\d)[^\s\"']{6,}"),
    ("credential", r"(?i)(?P<keep>\bbearer\s+)[A-Za-z0-9._~+/-]{16,}={0,2}"),
    ("credential", r"(?i)(?P<keep>authorization\W{1,6}\w+\s+)[A-Za-z0-9._~+/-]{4,}={0,2}"),
    ("credential", r"(?i)(?P<keep>\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@'\"]*:)[^\s/@'\"]+(?=@)"),
    (
        "credential",
        r"(?i)(?P<keep>(?:passw(?:or)?d|token-secret|client-secret|api-?key)[\"']?\s*[:=]\s*[\"']?)"
        r"(?!\[[a-z ]+ redacted\])[^\s\"',;}]{3,}",
    ),
)


@functools.lru_cache(maxsize=1)  # most programs on nodes redact nothing, and compiling takes 5 ms
def _rules() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)


# Longer lines are dropped: a cut could split a secret.
LINE_LIMIT = 1 << 20
_DROPPED = f"(a line of more than {LINE_LIMIT} bytes, not kept)"
# Shorter parts of a secret occur in too many other texts.
SHORTEST_PART = 6

_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----")
_KEY_BODY = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\ \t\r\n")
# A line of a key (RFC 7468, RFC 1421), and the maximum number of lines.
_KEY_LINE = re.compile(r"[A-Za-z0-9+/=:,.\s-]*\Z")
_KEY_LINES = 200
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# kubeadm prints a certificate key on the line after the words.
_HEX_FOLLOWS = re.compile(r"certificate[-_ ]?key\W*\Z", re.IGNORECASE)
_HEX = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def redact(text: str, values: Iterable[str] = ()) -> str:
    """Return ``text`` with every secret, and each of ``values``, replaced by ``[<kind> redacted]``."""
    for value in values:
        if value:
            text = text.replace(value, "[secret redacted]")
    for kind, rule in _rules():
        kept = r"\g<keep>" if "keep" in rule.groupindex else ""
        text = rule.sub(f"{kept}[{kind} redacted]", text)
    for begin, end in reversed(_headless(text)):
        text = f"{text[:begin]}[private key redacted]{text[end:]}"
    return text


def find(text: str) -> list[str]:
    """Return the kind of each secret in ``text``. Text that `redact` returned has none."""
    kinds = [kind for kind, rule in _rules() for match in rule.finditer(text) if "redacted]" not in match.group(0)]
    return kinds or ["private key"] * len(_headless(text))


def _headless(text: str) -> list[tuple[int, int]]:
    """Return the positions of PEM private keys whose beginning was cut off. A pattern would be slow on long base64."""
    positions = []
    for match in _KEY_END.finditer(text):
        begin = match.start()
        while begin > 0 and text[begin - 1] in _KEY_BODY:
            begin -= 1
        positions.append((begin, match.end()))
    return positions


def forms(value: str) -> list[str]:
    """Return the forms in which an output may contain a secret, longest first: the text, its lines, as JSON, in base64,
    quoted for a shell or a URL.
    """
    if not value:
        return []
    whole = {value, value.strip()}
    whole |= {line.strip() for line in value.splitlines() if len(line.strip()) >= SHORTEST_PART}
    result = set(whole)
    for text in whole:
        result |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        escaped = text.replace("'", "'\\''")
        result |= {shlex.quote(text), escaped, f"'{escaped}'", quote(text, safe=""), quote(text)}
    for text in [value, value.strip(), value.strip() + "\n"]:
        coded = base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()
        if len(coded) >= SHORTEST_PART:
            result |= {coded, coded.rstrip("=")}
    return sorted((text for text in result if text), key=len, reverse=True)


class RedactedLines:
    """A converter from bytes to lines without secrets, the given ``values`` included."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._forms: list[str] = []
        self._pending = b""
        self._key_lines = 0
        self._too_long = False
        self._hex_follows = False
        self.hide(values)

    def hide(self, values: Iterable[str]) -> None:
        """Add secrets."""
        added = {form for value in values for form in forms(value)}
        self._forms = sorted(added.union(self._forms), key=len, reverse=True)

    def clean(self, text: str) -> str:
        """Return a text without secrets."""
        return redact(text, self._forms)

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are complete with ``data``."""
        *complete, self._pending = (self._pending + data).split(b"\n")
        result = []
        for line in complete:
            if self._too_long or len(line) > LINE_LIMIT:
                result.append(_DROPPED)
                self._too_long = False
            else:
                result += self._line(line)
        if len(self._pending) > LINE_LIMIT:
            self._too_long, self._pending = True, b""
        return result

    def end(self) -> list[str]:
        """Return the text after the last newline."""
        pending, self._pending = self._pending, b""
        if self._too_long:
            self._too_long = False
            return [_DROPPED]
        return self._line(pending) if pending else []

    def _line(self, raw: bytes) -> list[str]:
        text = _COLOUR.sub("", raw.decode("utf-8", "replace").rstrip("\r"))
        if self._key_lines:
            self._key_lines -= 1
            if _KEY_END.search(text):
                self._key_lines = 0
                return []
            if _KEY_LINE.match(text):
                return []
            self._key_lines = 0
        if self._hex_follows:
            text = _HEX.sub("[certificate key redacted]", text)
        self._hex_follows = _HEX_FOLLOWS.search(text[-40:]) is not None
        if _KEY_BEGIN.search(text) and not _KEY_END.search(text):
            self._key_lines = _KEY_LINES
            return [self.clean(_KEY_BEGIN.split(text)[0] + "[private key redacted]")]
        return [self.clean(text)]
