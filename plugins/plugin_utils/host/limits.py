"""Kernel limits that are too low for many nodes: raise them on request, record the old values, restore them.

They last until the next boot, and so does the record. Also the limit of open files, which devenv does not change.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

from ansible_collections.devenv.lab.plugins.module_utils.node.facts import capabilities
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import SYSCTLS, Probe, sysctl_read

RECORD = Path("/run/devenv/host-limits.json")
# What databases such as Elasticsearch and ClickHouse require, and the default of fs.nr_open.
OPEN_FILES = 1048576
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


def open_files(root: Path = SYSCTLS, status: Path = Path("/proc/self/status")) -> int:
    """Return the number of open files that a process in a container of this process can have: OPEN_FILES, or the host's
    limit.
    """
    most = int(sysctl_read("fs.nr_open", root) or OPEN_FILES)
    if not capabilities(status.read_text())["sys_resource"]:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    return min(most, OPEN_FILES)


def open_files_probe(limit: int) -> Probe:
    """Check that pods can open as many files as databases need."""
    return Probe(
        "open files per process",
        limit >= OPEN_FILES,
        str(limit),
        f"{OPEN_FILES} for databases",
        f"ulimit -Hn {OPEN_FILES} in the shell or service that runs devenv",
        "kernel_feature_missing",
        required=False,
    )


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
