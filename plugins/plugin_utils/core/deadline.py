"""The time that a whole run has: set once where it begins, seen by all that wait in it."""

from __future__ import annotations

import os
import time

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

# Wall time of the end, and the seconds that were given. The process's forks see it.
_UNTIL = "DEVENV_UNTIL"


def clear() -> None:
    """Forget another run's time."""
    os.environ.pop(_UNTIL, None)


def begin(seconds: float, gone: float = 0.0) -> None:
    """The run has ``seconds``, of which ``gone`` have gone; the first call counts. 0 seconds are no limit."""
    if seconds > 0:
        os.environ.setdefault(_UNTIL, f"{time.time() + seconds - gone!r} {seconds:g}")


def left(wish: float) -> float:
    """``wish`` seconds, or what the run still has when that is less; not below 0."""
    until = os.environ.get(_UNTIL)
    return wish if until is None else max(0.0, min(wish, float(until.split()[0]) - time.time()))


def check(what: str) -> None:
    """Raise DevenvError ``time_over`` when the run has no time left for ``what``."""
    if left(1.0) <= 0:
        raise DevenvError("time_over", f"the {os.environ[_UNTIL].split()[1]} s of this run were over before {what}")
