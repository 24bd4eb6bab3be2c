"""Read the state of a node's files, sysctls and units. Changes nothing.

The modules node_status (which reports) and node_config (which converges) share these functions. Each takes ``root``, so
that a test can pass a folder.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import time
from collections.abc import Iterable
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files, program

# Names of everything that node_config manages. Their state is always read from the machine.
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
    """Return ``{sha256, mode, owner, group, mtime}`` of a file, None if it does not exist.

    A link, folder or device has an empty digest: it exists, but is not the desired file.
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
    """Return the file of a kernel setting: ``/proc/sys/net/ipv4/ip_forward`` for ``net.ipv4.ip_forward``.

    A name with ``/`` is used as it is, because names of interfaces may contain dots.
    """
    return "/proc/sys/" + (name if "/" in name else name.replace(".", "/"))


def sysctl_value(name: str, root: str = "/") -> str | None:
    """Return the value with normalised blanks, None if the kernel has no such setting."""
    try:
        with open(files.under(root, sysctl_path(name)), encoding="ascii", errors="replace") as stream:
            return " ".join(stream.read().split())
    except OSError:
        return None


def parse_units(text: str, monotonic: float, wall: float) -> dict[str, dict[str, Any]]:
    """Parse the output of ``systemctl show`` of several units: ``{name: {active, enabled, found, reload, since,
    changed}}``.

    ``since`` is the wall time (s) at which the unit last left the inactive state, ``changed`` that of its last change
    of state, reloads included; 0 if that never happened.
    """

    def wall_time(microseconds: str) -> float:
        at = int(microseconds) / 1e6
        return wall - (monotonic - at) if at else 0.0

    units: dict[str, dict[str, Any]] = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if not values.get("Id"):
            continue
        units[values["Id"]] = {
            "active": values.get("ActiveState", ""),
            "enabled": values.get("UnitFileState", ""),
            "found": values.get("LoadState", "") not in ("not-found", ""),
            "reload": values.get("NeedDaemonReload") == "yes",
            "since": wall_time(values.get("InactiveExitTimestampMonotonic") or "0"),
            "changed": wall_time(values.get("StateChangeTimestampMonotonic") or "0"),
        }
    return units


def unit_states(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the state of systemd units by name, with one call of systemctl; {} where systemd is not PID 1."""
    units = sorted(set(names))
    if not units:
        return {}
    result = program.run(["systemctl", "show", "--property=" + ",".join(UNIT_PROPERTIES), "--", *units])
    return parse_units(result.stdout, time.monotonic(), time.time()) if result.code == 0 else {}


def managed(root: str = "/") -> dict[str, Any]:
    """Return the names of everything that node_config manages: ``{part: {files, sysctls, units, watch, checks}}``."""
    parts = files.read_json(files.under(root, MANAGED)).get("parts", {})
    return parts if isinstance(parts, dict) else {}


def observe(parts: dict[str, Any], root: str = "/") -> dict[str, Any]:
    """Return the state of everything that ``parts`` (shape of `managed`) names.

    ``{files: {path: state or None}, sysctls: {name: value or None}, units: {name: state}, checks: {unit: bool},
    managed: {...}}``
    """

    def names(*keys: str) -> list[str]:
        return sorted({str(name) for part in parts.values() for key in keys for name in part.get(key, [])})

    checks = {unit: argv for part in parts.values() for unit, argv in part.get("checks", {}).items()}
    return {
        "files": {path: file_state(path, root) for path in names("files", "watch")},
        "sysctls": {name: sysctl_value(name, root) for name in names("sysctls")},
        "units": unit_states(names("units")),
        "checks": {unit: program.run(argv).code == 0 for unit, argv in checks.items()},
        "managed": managed(root),
    }
