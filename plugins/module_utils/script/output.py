"""The output of a script: line by line, without secrets."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import time
from collections.abc import Iterable
from urllib.parse import quote

from ansible_collections.devenv.lab.plugins.module_utils.node import redact

# A line longer than this is kept nowhere: where it would be cut, a secret could be cut, too.
LINE_LIMIT = 1 << 20
# A part of a secret that is shorter stands in too many texts to be told from them.
SHORTEST_PART = 6

_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----")
# A line within a key (RFC 7468, RFC 1421), and how many a key has at most.
_BODY = re.compile(r"[A-Za-z0-9+/=:,.\s-]*\Z")
_KEY_LINES = 200
# Names of variables whose values are secrets though nobody declared them.
SECRET_NAME = re.compile(r"PASSW|SECRET|TOKEN|CREDENTIAL|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY", re.IGNORECASE)


def forms(value: str) -> list[str]:
    """The texts by which a secret can stand in an output, longest first: itself, its lines, as JSON, in base64, quoted
    by a shell, in a URL.
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


def looks_secret(name: str) -> bool:
    """Whether a variable's name says that its value is a secret."""
    return SECRET_NAME.search(name) is not None


class Lines:
    """Bytes in, lines without secrets out. ``values`` are the secrets."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._forms: list[str] = []
        self._rest = b""
        self._key_lines = 0
        self._too_long = False
        self.hide(values)

    def hide(self, values: Iterable[str]) -> None:
        """Further secrets."""
        found = set(self._forms)
        for value in values:
            found.update(forms(value))
        self._forms = sorted(found, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """A text without secrets."""
        return redact.redact(text, self._forms)

    def feed(self, data: bytes) -> list[str]:
        """The whole lines that there are with ``data``."""
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
        """What came after the last newline."""
        rest, self._rest = self._rest, b""
        if self._too_long:
            self._too_long = False
            return [f"(a line of more than {LINE_LIMIT} bytes, not kept)"]
        return self._line(rest) if rest else []

    def _line(self, raw: bytes) -> list[str]:
        # What a progress bar overwrites is no line of its own.
        text = raw.decode("utf-8", "replace").rstrip("\r")
        if self._key_lines:
            self._key_lines -= 1
            if _END.search(text):
                self._key_lines = 0
                return []
            if _BODY.match(text):
                return []
            self._key_lines = 0
        if _BEGIN.search(text) and not _END.search(text):
            self._key_lines = _KEY_LINES
            return [self.clean(_BEGIN.split(text)[0] + "[private key redacted]")]
        return [self.clean(text)]


class Screen:
    """Where a script's output goes: all to the log, the last lines and those that match to the result."""

    def __init__(self, lines: Lines, log: int, keep: int, show: str, changed: str) -> None:
        self.lines = lines
        self.output: list[str] = []
        self.shown: list[str] = []
        self.matched = False
        self._log = log
        self._keep = keep
        self._show = re.compile(show) if show else None
        self._changed = re.compile(changed) if changed else None
        self._began = time.monotonic()

    def write(self, data: bytes) -> None:
        """Output as it comes."""
        self._take(self.lines.feed(data))

    def end(self) -> None:
        """A program ended."""
        self._take(self.lines.end())

    def note(self, text: str) -> None:
        """A line of ours, in the log alone."""
        if self._log >= 0:
            data = f"{time.monotonic() - self._began:8.2f} {text}\n".encode("utf-8", "replace")
            os.write(self._log, data)

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            self.note(line)
            self.matched = self.matched or (self._changed is not None and self._changed.search(line) is not None)
            if self._show is not None and self._show.search(line):
                self.shown.append(line)
        if lines:
            self.output = [*self.output, *lines][-self._keep :] if self._keep else []
