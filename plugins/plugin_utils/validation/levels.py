"""Groups of checks, and the loop that repeats them until all pass in the same round or the time is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client

SHOWN = 6
# Seconds between two rounds of all levels, and between two runs of a Background level that has not passed.
POLL = 0.1
PAUSE = 1.0


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``missing`` is empty when it passed; ``hopeless``: waiting would change nothing;
    ``warnings``: what will fail some day.
    """

    seen: str
    missing: tuple[str, ...] = ()
    hopeless: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.missing


class Level:
    """A group of checks that can be repeated."""

    def look(self, api: client.Api) -> dict[str, Finding]:
        """Return the current finding of each check, by name."""
        raise NotImplementedError

    def explain(self, api: client.Api) -> dict[str, str]:
        """Return events that may explain failed checks, by name of the check; called once, at the end."""
        return {}


class Background(Level):
    """Slow checks: they run in a thread of their own, repeatedly until all have passed."""

    def __init__(self, names: Iterable[str], collect: Callable[[], dict[str, Finding]]) -> None:
        self._collect = collect
        self._findings = {name: Finding("", ("not checked yet",)) for name in names}
        self._thread: threading.Thread | None = None
        self._ended = 0.0

    def look(self, api: client.Api) -> dict[str, Finding]:
        findings = self._findings
        is_running = self._thread is not None and self._thread.is_alive()
        is_complete = all(finding.ok or finding.hopeless for finding in findings.values())
        if not is_running and not is_complete and time.monotonic() - self._ended > PAUSE:
            # A daemon, so that it does not keep the process alive when the time is over.
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        return findings

    def _work(self) -> None:
        try:
            self._findings = self._collect()
        except Exception as error:  # otherwise these checks would be reported as not checked yet
            text = f"cannot be checked: {type(error).__name__}: {error}"
            self._findings = {name: Finding(text, (text,), hopeless=True) for name in self._findings}
        self._ended = time.monotonic()


def guarded(look: Callable[[], Finding], api: str = "API") -> Finding:
    """Return the result of ``look``, or a Finding for its failed request; ``api`` is the API's name in the message."""
    try:
        return look()
    except client.ApiError as error:
        text, hopeless = f"the {api} returns {error.status}: {error}", error.status == 422
    except client.ApiUnreachable as error:
        text, hopeless = f"the API does not answer: {error}", False
    return Finding(text, (text,), hopeless)


def problems(texts: Sequence[str]) -> str:
    """Return a list for an error message: the first texts, and the number of the others."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


@dataclass
class Check:
    """A check and its last finding. ``seconds``: when it passed, or how long it was repeated without passing."""

    name: str
    finding: Finding
    seconds: float = 0.0
    events: str = ""

    @property
    def ok(self) -> bool:
        return self.finding.ok

    @property
    def seen(self) -> str:
        """The text for people: what passed, or what is missing."""
        events = f" (events: {self.events})" if self.events else ""
        return self.finding.seen if self.ok else problems(self.finding.missing) + events


def until_ready(
    api: client.Api, levels: Sequence[Level], *, timeout: float, progress: Callable[[str], None] = lambda text: None
) -> list[Check]:
    """Return every check of ``levels`` as it was in the last round.

    The last round is the first one in which all checks pass or all that fail are hopeless, or the one after ``timeout``
    seconds.
    """
    start = time.monotonic()
    checks: dict[str, Check] = {}
    report = wait.on_change(progress)
    round_seconds = 0.0

    def is_decided() -> bool:
        nonlocal round_seconds
        began = time.monotonic()
        for level in levels:
            for name, finding in level.look(api).items():
                # A check that still passes keeps the time at which it passed.
                if name not in checks or not finding.ok or finding != checks[name].finding:
                    checks[name] = Check(name, finding, round(time.monotonic() - start, 2))
        round_seconds = time.monotonic() - began
        failing = [check for check in checks.values() if not check.ok]
        decided = all(check.finding.hopeless for check in failing)
        if not decided and time.monotonic() - start < timeout:
            report(f"waiting for {', '.join(check.name for check in failing)}")
        return decided

    # Listing a large cluster takes long: pause at least as long as the round took.
    wait.until(is_decided, start + timeout, pause=lambda: max(POLL, round_seconds))
    if not all(check.ok for check in checks.values()):
        for level in levels:
            for name, events in level.explain(api).items():
                checks[name].events = events
    return list(checks.values())


def failure(cluster: str, checks: Sequence[Check]) -> DevenvError | None:
    """Return the DevenvError ``validate_failed`` that lists what is missing, None if all checks passed."""
    failing = [check for check in checks if not check.ok]
    if not failing:
        return None
    # Checks that fail for the same reason (the API does not answer) share a line.
    names: dict[str, list[str]] = {}
    for check in failing:
        names.setdefault(check.seen, []).append(check.name)
    missing = "".join(f"\n  {', '.join(group)}: {seen}" for seen, group in names.items())
    seconds = max(check.seconds for check in checks)
    text = f"not ready after {seconds:.0f} s, {len(failing)} of {len(checks)} checks failed:{missing}"
    return DevenvError("validate_failed", text, where=f"cluster {cluster}")
