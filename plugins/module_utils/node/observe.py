"""Look at a node: files, sysctls, units. Reads only.

Plain functions of the running system, shared by the modules node_status (which reports) and node_config (which
converges). Every function takes ``root`` so that a test can show it a folder instead of the machine.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files, program

# Names of what node_config looks after; the state itself is always read from the machine.
MANAGED = "/var/lib/devenv/managed.json"

UNIT_PROPERTIES = (
    "Id",
    "ActiveState",
    "UnitFileState",
    "LoadState",
    "NeedDaemonReload",
    "InactiveExitTimestampMonotonic",
    "StateChangeTimestampMonotonic",
)


def _name(lookup: Any, number: int) -> str:
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def file_state(path: str, root: str = "/") -> dict[str, Any] | None:
    """Return ``{sha256, mode, owner, group, mtime}`` of a regular file, None when there is none.

    A link, a folder or a device counts as a file with an empty digest: present, and not what anyone asked for.
    """
    real = files.under(root, path)
    try:
        info = os.lstat(real)
    except OSError:
        return None
    return {
        "sha256": files.sha256(real) if stat.S_ISREG(info.st_mode) else "",
        "mode": format(stat.S_IMODE(info.st_mode), "04o"),
        "owner": _name(pwd.getpwuid, info.st_uid),
        "group": _name(grp.getgrgid, info.st_gid),
        "mtime": info.st_mtime,
    }


def sysctl_path(name: str) -> str:
    """Return the file of a setting: ``net.ipv4.ip_forward`` -> ``/proc/sys/net/ipv4/ip_forward`` (a name with ``/`` is
    taken as it is: interfaces have dots).
    """
    return "/proc/sys/" + (name if "/" in name else name.replace(".", "/"))


def sysctl_value(name: str, root: str = "/") -> str | None:
    """Return the value with blanks normalised, None when the kernel has no such setting."""
    try:
        with open(files.under(root, sysctl_path(name)), encoding="ascii", errors="replace") as stream:
            return " ".join(stream.read().split())
    except OSError:
        return None


def parse_units(text: str, monotonic: float, wall: float) -> dict[str, dict[str, Any]]:
    """Parse the output of ``systemctl show`` of several units: ``{name: {active, enabled, found, reload, since,
    changed}}``.

    ``since`` is the wall time (s) at which the unit last left the inactive state, ``changed`` that of its last change
    of state (a reload is one), 0 when it never did.
    """
    units: dict[str, dict[str, Any]] = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = values.get("Id", "")
        if not name:
            continue
        units[name] = {
            "active": values.get("ActiveState", ""),
            "enabled": values.get("UnitFileState", ""),
            "found": values.get("LoadState", "") not in ("not-found", ""),
            "reload": values.get("NeedDaemonReload") == "yes",
            "since": _wall(values.get("InactiveExitTimestampMonotonic"), monotonic, wall),
            "changed": _wall(values.get("StateChangeTimestampMonotonic"), monotonic, wall),
        }
    return units


def _wall(microseconds: str | None, monotonic: float, wall: float) -> float:
    at = int(microseconds or 0) / 1e6
    return wall - (monotonic - at) if at else 0.0


def unit_states(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the state of systemd units by name, in one question to systemd; {} where systemd is not PID 1."""
    wanted = sorted(set(names))
    if not wanted:
        return {}
    answer = program.run(["systemctl", "show", "--property=" + ",".join(UNIT_PROPERTIES), "--", *wanted])
    return parse_units(answer.stdout, time.monotonic(), time.time()) if answer.code == 0 else {}


def managed(root: str = "/") -> dict[str, Any]:
    """Return what node_config looks after: ``{part: {files, sysctls, units, watch, checks}}``."""
    parts = files.read_json(files.under(root, MANAGED)).get("parts", {})
    return parts if isinstance(parts, dict) else {}


def _union(parts: dict[str, Any], keys: Sequence[str]) -> list[str]:
    return sorted({str(name) for part in parts.values() for key in keys for name in part.get(key, [])})


def observe(parts: dict[str, Any], root: str = "/") -> dict[str, Any]:
    """Return the state of everything that ``parts`` (as in `managed`) names.

    ``{files: {path: state or None}, sysctls: {name: value or None}, units: {name: state}, checks: {unit: bool},
    managed: {...}}``
    """
    checks = {unit: argv for part in parts.values() for unit, argv in part.get("checks", {}).items()}
    return {
        "files": {path: file_state(path, root) for path in _union(parts, ("files", "watch"))},
        "sysctls": {name: sysctl_value(name, root) for name in _union(parts, ("sysctls",))},
        "units": unit_states(_union(parts, ("units",))),
        "checks": {unit: program.run(argv).code == 0 for unit, argv in checks.items()},
        "managed": managed(root),
    }
