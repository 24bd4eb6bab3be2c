"""The time limit of a whole run: set once at its start, respected by everything that waits in it."""

from __future__ import annotations

import os
import time

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

# Wall time of the end, and the limit in seconds. A variable of the environment, so that forks inherit it.
_UNTIL = "DEVENV_UNTIL"


def clear() -> None:
    """Clear the limit of another run."""
    os.environ.pop(_UNTIL, None)


def begin(seconds: float, gone: float = 0.0) -> None:
    """Limit the run to ``seconds``, of which ``gone`` have passed; only the first call counts. 0 means no limit."""
    if seconds > 0:
        os.environ.setdefault(_UNTIL, f"{time.time() + seconds - gone!r} {seconds:g}")


def remaining(limit: float) -> float:
    """Return ``limit`` seconds, or the remaining time of the run if that is less, at least 0."""
    until = os.environ.get(_UNTIL)
    return limit if until is None else max(0.0, min(limit, float(until.split()[0]) - time.time()))


def check(what: str) -> None:
    """Raise DevenvError ``time_over`` if the run has no time left for ``what``."""
    if remaining(1.0) <= 0:
        limit = os.environ[_UNTIL].split()[1]
        raise DevenvError("time_over", f"the time limit of this run, {limit} s, passed before {what}")
