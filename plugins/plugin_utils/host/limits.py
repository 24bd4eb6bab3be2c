"""Kernel limits that are too low for many nodes: raise them on request, record the old values, restore them.

They last until the next boot, and so does the record.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import SYSCTLS, sysctl_read

RECORD = Path("/run/devenv/host-limits.json")
# Enough for about twenty nodes.
LIMITS = {"fs.inotify.max_user_instances": 512, "fs.inotify.max_user_watches": 524288}


def raise_limits(root: Path = SYSCTLS, record: Path = RECORD) -> list[str]:
    """Raise the limits that are lower than LIMITS; return a line for each. Raises DevenvError limits_not_set."""
    return _set(
        {
            name: str(least)
            for name, least in LIMITS.items()
            if (value := sysctl_read(name, root)).isdigit() and int(value) < least
        },
        root,
        lambda name, old: files.write(record, json.dumps({name: old} | recorded(record))),
    )


def recorded(record: Path = RECORD) -> dict[str, str]:
    """Return the values before they were raised; empty if nothing was raised since the last boot."""
    values: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    return values


def restore(root: Path = SYSCTLS, record: Path = RECORD) -> list[str]:
    """Restore the recorded values, except of limits that have been changed since. Return a line for each."""
    raised = {name: old for name, old in recorded(record).items() if sysctl_read(name, root) == str(LIMITS.get(name))}
    lines = _set(raised, root)
    record.unlink(missing_ok=True)
    return lines


def _set(values: dict[str, str], root: Path, before: Callable[[str, str], object] | None = None) -> list[str]:
    lines = []
    for name, value in values.items():
        old = sysctl_read(name, root)
        try:
            if before:
                before(name, old)
            (root / name.replace(".", "/")).write_text(value)
        except OSError as error:
            raise DevenvError("limits_not_set", f"{name}: {old} cannot be set to {value}: {error.strerror}") from None
        lines.append(f"{name}: {old} -> {value}")
    return lines
