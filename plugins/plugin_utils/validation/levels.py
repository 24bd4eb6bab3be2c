"""What a check gives, and what a group of checks looks like."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client

SHOWN = 6
# Seconds between two runs of a Background level that has not passed.
PAUSE = 1.0


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``missing`` is empty when it passed; ``hopeless``: waiting would change nothing;
    ``warnings``: what will not pass some day.
    """

    seen: str
    missing: tuple[str, ...] = ()
    hopeless: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.missing


class Level:
    """A group of checks that can be made again and again."""

    def look(self, api: client.Api) -> dict[str, Finding]:
        """Return the present finding of each check, by name."""
        raise NotImplementedError

    def explain(self, api: client.Api) -> dict[str, str]:
        """Return what else is known about checks that did not pass, by name; called once, when the time is over."""
        return {}


class Background(Level):
    """Checks that take long: made in a thread of their own, again until all have passed."""

    def __init__(self, names: Iterable[str], collect: Callable[[], dict[str, Finding]]) -> None:
        self._collect = collect
        self._findings = {name: Finding("", ("not looked at yet",)) for name in names}
        self._thread: threading.Thread | None = None
        self._ended = 0.0

    def look(self, api: client.Api) -> dict[str, Finding]:
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
        findings = self._findings
        complete = all(finding.ok or finding.hopeless for finding in findings.values())
        if self._thread is None and not complete and time.monotonic() - self._ended > PAUSE:
            # A daemon, so that it does not keep the process alive when the time is over.
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        return findings

    def _work(self) -> None:
        try:
            self._findings = self._collect()
        except Exception as error:  # else these checks would be reported as never looked at
            text = f"cannot be looked at: {type(error).__name__}: {error}"
            self._findings = {name: Finding(text, (text,), hopeless=True) for name in self._findings}
        self._ended = time.monotonic()


def guarded(look: Callable[[], Finding], api: str = "API") -> Finding:
    """Return what ``look`` returns, or the failure of its request to the API, which a refusal calls ``api``."""
    try:
        return look()
    except client.ApiError as error:
        text, hopeless = f"the {api} answers {error.status}: {error}", error.status == 422
    except client.ApiUnreachable as error:
        text, hopeless = f"the API does not answer: {error}", False
    return Finding(text, (text,), hopeless)


def problems(texts: Sequence[str]) -> str:
    """Return a list for an error message: the first few, and how many more there are."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more
