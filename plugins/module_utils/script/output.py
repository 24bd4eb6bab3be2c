"""Keep the output of a script line by line, without secrets."""

from __future__ import annotations

import os
import re
import time

from ansible_collections.devenv.lab.plugins.module_utils.node.redact import RedactedLines

# Variables with such names have secret values although nobody declared them.
SECRET_NAME = re.compile(r"PASSW|SECRET|TOKEN|CREDENTIAL|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY", re.IGNORECASE)


class Screen:
    """Where a script's output goes: all lines to the log, the last lines and those that match to the result."""

    def __init__(self, lines: RedactedLines, log: int, keep: int, show: str, changed: str) -> None:
        self.output: list[str] = []
        self.shown: list[str] = []
        self.matched = False
        self._lines = lines
        self._log = log
        self._keep = keep
        self._show = re.compile(show) if show else None
        self._changed = re.compile(changed) if changed else None
        self._began = time.monotonic()

    def write(self, data: bytes) -> None:
        """Take output as it arrives."""
        self._take(self._lines.feed(data))

    def end(self) -> None:
        """Take the last line of a program that has ended."""
        self._take(self._lines.end())

    def note(self, text: str) -> None:
        """Write a line to the log only."""
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
