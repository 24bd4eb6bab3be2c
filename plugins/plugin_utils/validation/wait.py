"""Repeat the checks of all levels until all pass at once, or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Finding, Level, problems

POLL = 0.1


@dataclass
class Check:
    """A check and its last finding. ``seconds``: when it passed, or how long it was waited for."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    seen: str = ""
    hopeless: bool = field(default=False, repr=False)
    warnings: tuple[str, ...] = ()


def until_ready(
    api: client.Api, levels: Sequence[Level], *, timeout: float, progress: Callable[[str], None] = lambda text: None
) -> list[Check]:
    """Return every check of ``levels`` as it was in the last round.

    That is the first round in which all pass or nothing that fails has any hope, or the one after ``timeout`` seconds.
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
                _note(checks.setdefault(name, Check(name)), finding, time.monotonic() - start)
        round_seconds = time.monotonic() - began
        failing = [check for check in checks.values() if not check.ok]
        decided = all(check.hopeless for check in failing)
        if not decided and time.monotonic() - start < timeout:
            report(f"waiting for {', '.join(check.name for check in failing)}")
        return decided

    # A large cluster takes long to list: leave it at least as much time to itself.
    wait.until(is_decided, start + timeout, pause=lambda: max(POLL, round_seconds))
    if not all(check.ok for check in checks.values()):
        for level in levels:
            for name, text in level.explain(api).items():
                if text and name in checks and not checks[name].ok:
                    checks[name].seen += f" (events: {text})"
    return list(checks.values())


def _note(check: Check, finding: Finding, seconds: float) -> None:
    if finding.ok and check.ok and finding.seen == check.seen:
        return
    check.ok, check.hopeless = finding.ok, finding.hopeless
    check.warnings = finding.warnings
    check.seconds = round(seconds, 2)
    check.seen = finding.seen if finding.ok else problems(finding.missing)


def failure(cluster: str, checks: Sequence[Check]) -> DevenvError | None:
    """Return the DevenvError ``validate_failed`` that lists what is missing, None when all checks passed."""
    failing = [check for check in checks if not check.ok]
    if not failing:
        return None
    # What several checks lack for one reason (the API does not answer) is listed once.
    reasons: dict[str, list[str]] = {}
    for check in failing:
        reasons.setdefault(check.seen, []).append(check.name)
    missing = "".join(f"\n  {', '.join(names)}: {seen}" for seen, names in reasons.items())
    waited = max(check.seconds for check in checks)
    text = f"not ready after {waited:.0f} s, {len(failing)} of {len(checks)} checks did not pass:{missing}"
    return DevenvError("validate_failed", text, where=f"cluster {cluster}")
