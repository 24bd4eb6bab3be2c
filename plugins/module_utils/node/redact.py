"""Take secrets out of text before it is written anywhere.

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


@functools.lru_cache(maxsize=1)  # most programs on nodes redact nothing, and compiling takes 5 ms
def _rules() -> tuple[tuple[str, re.Pattern[str]], ...]:
    # A rule keeps what stands in its group "keep" and replaces the rest of the match. Order matters: blocks before what
    # may stand in them.
    return (
        (
            "private key",
            re.compile(
                r"-----BEGIN (?P<kind>[A-Z0-9 ]*)PRIVATE KEY-----.*?(?:-----END (?P=kind)PRIVATE KEY-----|\Z)",
                re.DOTALL,
            ),
        ),
        # base64 of "-----BEGIN" unless " CERT" follows, and of the magic of OpenSSH's private keys.
        ("private key", re.compile(r"LS0tLS1CRUdJTi(?!BDRVJU)[A-Za-z0-9+/]{16,}={0,2}")),
        ("private key", re.compile(r"b3BlbnNzaC1rZXktdjE[A-Za-z0-9+/\s]{16,}={0,2}")),
        ("private key", re.compile(r"(?P<keep>client-key-data\W{1,8})[A-Za-z0-9+/]{16,}={0,2}")),
        (
            "certificate key",
            re.compile(
                r"(?P<keep>certificate[-_ ]?key.{0,40}?)(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])",
                re.IGNORECASE | re.DOTALL,
            ),
        ),
        ("web token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
        ("bootstrap token", re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")),
        # Gravity's tokens have no form of their own.
        (
            "token",
            re.compile(
                r"(?P<keep>--token[= ]|[\"']token[\"']\s*:\s*[\"']|\b(?:join|install|access|secret) token:\s*)"
                r"(?!\[[a-z ]+ redacted\])[^\s\"']{3,}",
                re.IGNORECASE,
            ),
        ),
        # Of words after "token:" only what has a digit: "token: unauthorized" is a reason.
        ("token", re.compile(r"(?P<keep>\btoken:\s+[\"']?)(?!\[)(?=[^\s\"']*\d)[^\s\"']{6,}", re.IGNORECASE)),
        ("credential", re.compile(r"(?P<keep>\bbearer\s+)[A-Za-z0-9._~+/-]{16,}={0,2}", re.IGNORECASE)),
        ("credential", re.compile(r"(?P<keep>authorization\W{1,6}\w+\s+)[A-Za-z0-9._~+/-]{4,}={0,2}", re.IGNORECASE)),
        (
            "credential",
            re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@'\"]*:)[^\s/@'\"]+(?=@)", re.IGNORECASE),
        ),
        (
            "credential",
            re.compile(
                r"(?P<keep>(?:passw(?:or)?d|token-secret|client-secret|api-?key)[\"']?\s*[:=]\s*[\"']?)"
                r"(?!\[[a-z ]+ redacted\])[^\s\"',;}]{3,}",
                re.IGNORECASE,
            ),
        ),
    )


# A line longer than this is kept nowhere: where it would be cut, a secret could be cut, too.
LINE_LIMIT = 1 << 20
# A part of a secret that is shorter stands in too many texts to be told from them.
SHORTEST_PART = 6

_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----")
_KEY_BODY = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\ \t\r\n")
# A line within a key (RFC 7468, RFC 1421), and how many a key has at most.
_KEY_LINE = re.compile(r"[A-Za-z0-9+/=:,.\s-]*\Z")
_KEY_LINES = 200
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# kubeadm prints a certificate key on the line after the words.
_HEX_FOLLOWS = re.compile(r"certificate[-_ ]?key\W*\Z", re.IGNORECASE)
_HEX = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def redact(text: str, values: Iterable[str] = ()) -> str:
    """Return ``text`` with every secret replaced by ``[<kind> redacted]``; ``values`` are further strings that must not
    appear.
    """
    for value in values:
        if value:
            text = text.replace(value, "[secret redacted]")
    for kind, rule in _rules():
        # A rule without the group "keep" replaces its whole match.
        kept = r"\g<keep>" if "keep" in rule.groupindex else ""
        text = rule.sub(f"{kept}[{kind} redacted]", text)
    for begin, end in reversed(_headless(text)):
        text = f"{text[:begin]}[private key redacted]{text[end:]}"
    return text


def find(text: str) -> list[str]:
    """Return the kinds of secrets in ``text``, one for each find. Text that ``redact`` returned has none."""
    found = [kind for kind, rule in _rules() for match in rule.finditer(text) if "redacted]" not in match.group(0)]
    return found or ["private key"] * len(_headless(text))


def _headless(text: str) -> list[tuple[int, int]]:
    """Return the places of private keys in PEM form whose beginning was cut off. Walked backwards: a pattern is slow
    on long base64.
    """
    found = []
    for match in _KEY_END.finditer(text):
        begin = match.start()
        while begin > 0 and text[begin - 1] in _KEY_BODY:
            begin -= 1
        found.append((begin, match.end()))
    return found


def forms(value: str) -> list[str]:
    """Return the texts by which a secret can stand in an output, longest first: itself, its lines, as JSON, in base64,
    quoted by a shell, in a URL.
    """
    if not value:
        return []
    whole = {value, value.strip()}
    whole |= {line.strip() for line in value.splitlines() if len(line.strip()) >= SHORTEST_PART}
    found = set(whole)
    for text in whole:
        found.add(json.dumps(text)[1:-1])
        found.add(json.dumps(text, ensure_ascii=False)[1:-1])
        found.add(shlex.quote(text))
        found.add("'" + text.replace("'", "'\\''") + "'")
        found.add(text.replace("'", "'\\''"))
        found.add(quote(text, safe=""))
        found.add(quote(text))
    for text in [value, value.strip(), value.strip() + "\n"]:
        coded = base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()
        if len(coded) >= SHORTEST_PART:
            found |= {coded, coded.rstrip("=")}
    return sorted((text for text in found if text), key=len, reverse=True)


class RedactedLines:
    """Bytes in, lines without secrets out. ``values`` are the secrets."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._forms: list[str] = []
        self._rest = b""
        self._key_lines = 0
        self._too_long = False
        self._hex_follows = False
        self.hide(values)

    def hide(self, values: Iterable[str]) -> None:
        """Add secrets."""
        found = set(self._forms)
        for value in values:
            found.update(forms(value))
        self._forms = sorted(found, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """Return a text without secrets."""
        return redact(text, self._forms)

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are complete with ``data``."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        found = []
        for line in whole:
            if self._too_long or len(line) > LINE_LIMIT:
                found.append(f"(a line of more than {LINE_LIMIT} bytes, not kept)")
                self._too_long = False
            else:
                found += self._line(line)
        if len(self._rest) > LINE_LIMIT:
            self._too_long, self._rest = True, b""
        return found

    def end(self) -> list[str]:
        """Return what came after the last newline."""
        rest, self._rest = self._rest, b""
        if self._too_long:
            self._too_long = False
            return [f"(a line of more than {LINE_LIMIT} bytes, not kept)"]
        return self._line(rest) if rest else []

    def _line(self, raw: bytes) -> list[str]:
        # What a progress bar overwrites is no line of its own.
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
