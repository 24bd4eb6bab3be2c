"""Look at a node: files, sysctls, units. Reads only.

Plain functions of the running system, shared by the modules node_status (which reports) and node_config (which
converges).
Every function takes ``root`` so that a test can show it a folder instead of the machine.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import stat
import subprocess
import time
from collections.abc import Iterable, Sequence
from typing import Any

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


def under(root: str, path: str) -> str:
    """``path`` below ``root`` ("/" is the machine itself)."""
    return os.path.join(root, path.lstrip("/"))


def read_text(path: str) -> str:
    """Content of a small text file, "" when it is not there or not readable."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def sha256(path: str) -> str:
    """sha256 (hex) of a file. Raises OSError."""
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def digest(path: str) -> str:
    """sha256 (hex) of a file, "" when it is not there."""
    try:
        return sha256(path)
    except FileNotFoundError:
        return ""


def read_json(path: str) -> dict[str, Any]:
    """A JSON object from a file, {} when it is absent or broken (a broken record is as good as none)."""
    try:
        value = json.loads(read_text(path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def run(argv: Sequence[str], timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run a program without a shell; a missing program or a timeout gives code 127 or 124."""
    try:
        return subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(list(argv), 127, "", str(error))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(argv), 124, "", f"{argv[0]} did not end in {timeout:g} s")


def _name(lookup: Any, number: int) -> str:
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def file_state(path: str, root: str = "/") -> dict[str, Any] | None:
    """``{sha256, mode, owner, group, mtime}`` of a regular file, None when there is none.

    A link, a folder or a device counts as a file with an empty digest: present, and not what anyone asked for.
    """
    real = under(root, path)
    try:
        info = os.lstat(real)
    except OSError:
        return None
    return {
        "sha256": sha256(real) if stat.S_ISREG(info.st_mode) else "",
        "mode": format(stat.S_IMODE(info.st_mode), "04o"),
        "owner": _name(pwd.getpwuid, info.st_uid),
        "group": _name(grp.getgrgid, info.st_gid),
        "mtime": info.st_mtime,
    }


def sysctl_path(name: str) -> str:
    """``net.ipv4.ip_forward`` -> ``/proc/sys/net/ipv4/ip_forward`` (a name with ``/`` is taken as it is: interfaces
    have dots).
    """
    return "/proc/sys/" + (name if "/" in name else name.replace(".", "/"))


def sysctl_value(name: str, root: str = "/") -> str | None:
    """Value with blanks normalised, None when the kernel has no such setting."""
    try:
        with open(under(root, sysctl_path(name)), encoding="ascii", errors="replace") as stream:
            return " ".join(stream.read().split())
    except OSError:
        return None


def parse_units(text: str, monotonic: float, wall: float) -> dict[str, dict[str, Any]]:
    """Output of ``systemctl show`` of several units -> ``{name: {active, enabled, found, reload, since, changed}}``.

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
    """State of systemd units by name, in one question to systemd; {} where systemd is not PID 1."""
    wanted = sorted(set(names))
    if not wanted:
        return {}
    answer = run(["systemctl", "show", "--property=" + ",".join(UNIT_PROPERTIES), "--", *wanted])
    return parse_units(answer.stdout, time.monotonic(), time.time()) if answer.returncode == 0 else {}


def managed(root: str = "/") -> dict[str, Any]:
    """What node_config looks after: ``{part: {files, sysctls, units, watch, checks}}``."""
    parts = read_json(under(root, MANAGED)).get("parts", {})
    return parts if isinstance(parts, dict) else {}


def _union(parts: dict[str, Any], keys: Sequence[str]) -> list[str]:
    return sorted({str(name) for part in parts.values() for key in keys for name in part.get(key, [])})


def observe(parts: dict[str, Any], root: str = "/") -> dict[str, Any]:
    """State of everything that ``parts`` (as in `managed`) names.

    ``{files: {path: state or None}, sysctls: {name: value or None}, units: {name: state}, checks: {unit: bool},
    managed: {...}}``
    """
    checks = {unit: argv for part in parts.values() for unit, argv in part.get("checks", {}).items()}
    return {
        "files": {path: file_state(path, root) for path in _union(parts, ("files", "watch"))},
        "sysctls": {name: sysctl_value(name, root) for name in _union(parts, ("sysctls",))},
        "units": unit_states(_union(parts, ("units",))),
        "checks": {unit: run(argv).returncode == 0 for unit, argv in checks.items()},
        "managed": managed(root),
    }
