"""The time when an environment expires: the file ``expires`` of its state directory, in UTC. `devenv prune --expired`
removes expired environments.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

FILE = "expires"
NEVER = "never"
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_LONGEST = timedelta(days=3650)


def parse(text: str) -> timedelta | None:
    """Return the time of ``30m``, ``2h``, ``7d`` or ``1d12h``; None for ``never``. Raises DevenvError ttl_invalid."""
    if text == NEVER:
        return None
    parts = re.findall(r"([1-9][0-9]{0,5})([dhm])", text)
    time = timedelta(seconds=sum(int(number) * _UNITS[unit] for number, unit in parts))
    if not parts or "".join(number + unit for number, unit in parts) != text or time > _LONGEST:
        raise DevenvError("ttl_invalid", f"{text[:40]!r} is not a valid time")
    return time


def read(folder: Path) -> datetime | None:
    """Return when the environment expires; None if it does not."""
    try:
        return datetime.fromisoformat((folder / FILE).read_text().strip())
    except FileNotFoundError:
        return None
    except ValueError:
        raise DevenvError("state_broken", "is not a time in ISO 8601", where=str(folder / FILE)) from None


def is_expired(folder: Path, now: datetime | None = None) -> bool:
    """Return whether the environment has expired."""
    expires = read(folder)
    return expires is not None and expires <= (now or datetime.now(UTC))


def start(folder: Path, text: str, now: datetime | None = None) -> datetime | None:
    """Let the environment expire the time ``text`` after ``now``; return when."""
    time = parse(text)
    return _write(folder, (now or datetime.now(UTC)) + time if time else None)


def extend(folder: Path, text: str, now: datetime | None = None) -> datetime | None:
    """Let the environment expire the time ``text`` later than it would, or after ``now`` if it has expired. Return
    when.

    Raises DevenvError ttl_invalid, also for an environment that does not expire.
    """
    time, current, present = parse(text), read(folder), now or datetime.now(UTC)
    if time is None:
        return _write(folder, None)
    if current is None:
        raise DevenvError("ttl_invalid", f"environment {folder.name} does not expire", advice="up --ttl TIME sets it.")
    return _write(folder, max(current, present) + time)


def _write(folder: Path, expires: datetime | None) -> datetime | None:
    if expires is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        files.write(folder / FILE, expires.isoformat(timespec="seconds") + "\n")
    return expires


def remaining(expires: datetime | None, now: datetime | None = None) -> str:
    """Return the remaining time, such as ``in 1h58m``, or ``expired``; empty without an expiry."""
    if expires is None:
        return ""
    minutes = int((expires - (now or datetime.now(UTC))).total_seconds() // 60)
    if minutes < 0:
        return "expired"
    days, hours = divmod(minutes // 60, 24)
    parts = [f"{days}d" if days else "", f"{hours}h" if hours else "", f"{minutes % 60}m" if not days else ""]
    return f"in {''.join(parts)}"
