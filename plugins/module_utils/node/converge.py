"""Compare the desired state of a node with its actual state, and apply the difference.

`plan` is a pure function of both states. Check mode, diff mode and the real run use it, and the controller, which skips
the call to a node whose known state already matches.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.node import files, observe, program

UNIT_FOLDERS = ("/etc/systemd/system/", "/usr/local/lib/systemd/system/", "/run/systemd/system/")


class UnitFailed(Exception):
    """systemd could not bring a unit to the desired state; the text ends with the unit's last log lines."""


class File(NamedTuple):
    """A desired file. The content of ``secret`` ones is never shown."""

    path: str
    content: str
    mode: str
    owner: str
    group: str
    secret: bool


class Plan(NamedTuple):
    """The difference, in the order in which it is applied. Empty if there is nothing to do."""

    write: list[File]
    remove: list[str]
    sysctls: dict[str, str]
    reload: bool
    enable: list[str]
    disable: list[str]
    stop: list[str]
    restart: list[str]
    start: list[str]
    refresh: list[str]
    managed: dict[str, Any] | None

    def changes(self) -> bool:
        """Return whether applying it would change the node. A new record alone is not a change."""
        return any(self[:-1])


NOTHING = Plan([], [], {}, False, [], [], [], [], [], [], None)


def result(plan: Plan) -> dict[str, Any]:
    """Return the plan as a task result: names only."""
    return {
        "changed": plan.changes(),
        "written": [file.path for file in plan.write],
        "removed": plan.remove,
        "sysctls": sorted(plan.sysctls),
        "reloaded": plan.reload,
        "enabled": plan.enable,
        "disabled": plan.disable,
        "stopped": plan.stop,
        "restarted": plan.restart,
        "started": plan.start,
        "refreshed": plan.refresh,
    }


def _entries(parts: list[dict[str, Any]], key: str) -> Iterator[Any]:
    """Yield the entries of a list in all parts, which the controller may not have validated yet."""
    for part in parts:
        yield from part.get(key) or []


def files_of(parts: list[dict[str, Any]]) -> dict[str, File]:
    """Return every desired file by path. Raises ValueError for a path that is listed twice or also in ``absent``."""
    desired: dict[str, File] = {}
    for entry in _entries(parts, "files"):
        path = entry["path"]
        if path in desired:
            raise ValueError(f"{path} is listed twice")
        secret = entry.get("secret_content") is not None
        content = entry["secret_content"] if secret else entry.get("content")
        mode, owner, group = entry.get("mode") or "0644", entry.get("owner") or "root", entry.get("group") or "root"
        desired[path] = File(path, content or "", mode, owner, group, secret)
    both = sorted(desired.keys() & set(_entries(parts, "absent")))
    if both:
        raise ValueError(f"{', '.join(both)} is listed in both files and absent")
    return desired


def record_of(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the names in ``parts``, which `observe.managed` returns to the next run."""

    def record(part: dict[str, Any]) -> dict[str, Any]:
        units = part.get("units") or []
        read = {path for unit in units for key in ("restart_on", "reload_on") for path in unit.get(key) or []}
        return {
            "files": sorted(entry["path"] for entry in part.get("files") or []),
            "sysctls": sorted(part.get("sysctls") or {}),
            "units": sorted(unit["name"] for unit in units),
            "watch": sorted(read | set(part.get("absent") or [])),
            "checks": {unit["name"]: unit["check"] for unit in units if unit.get("check")},
        }

    return {part["name"]: record(part) for part in parts}


def to_observe(parts: list[dict[str, Any]], before: dict[str, Any]) -> dict[str, Any]:
    """Return the names to observe for a plan: those of earlier runs and of the desired state."""
    return {**before, **{f"{name} (desired)": record for name, record in record_of(parts).items()}}


def _file_differs(desired: File, state: dict[str, Any] | None) -> bool:
    if state is None:
        return True
    digest = hashlib.sha256(desired.content.encode()).hexdigest()
    actual = (state["sha256"], state["mode"], state["owner"], state["group"])
    return actual != (digest, desired.mode.rjust(4, "0"), desired.owner, desired.group)


def _units(parts: list[dict[str, Any]], observed: dict[str, Any], touched: list[str]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {"enable": [], "disable": [], "stop": [], "restart": [], "start": [], "refresh": []}

    # A run that was killed between writing a file and restarting its unit leaves a file that is newer than the unit.
    def stale(paths: list[str] | None, since: float) -> bool:
        return any(
            path in touched or ((observed["files"].get(path) or {}).get("mtime", 0) > since) for path in paths or []
        )

    for unit in _entries(parts, "units"):
        name, state = unit["name"], observed["units"].get(unit["name"], {})
        active = state.get("active") in ("active", "activating", "reloading")
        desired, enabled = unit.get("state"), unit.get("enabled")
        if enabled is True and state.get("enabled") != "enabled":
            out["enable"].append(name)
        if enabled is False and state.get("enabled") in ("enabled", "enabled-runtime"):
            out["disable"].append(name)
        failed = bool(unit.get("check")) and not observed["checks"].get(name, False)
        if desired == "stopped":
            if active:
                out["stop"].append(name)
        elif active and (stale(unit.get("restart_on"), state.get("since", 0)) or failed or state.get("reload")):
            out["restart"].append(name)
        elif desired == "started" and not active:
            out["start"].append(name)
        elif active and stale(unit.get("reload_on"), state.get("changed", 0)):
            out["refresh"].append(name)
    # Two parts may contain the same unit with different files.
    out["refresh"] = [name for name in out["refresh"] if name not in out["restart"] + out["stop"]]
    return {verb: list(dict.fromkeys(names)) for verb, names in out.items()}


def plan(parts: list[dict[str, Any]], observed: dict[str, Any]) -> Plan:
    """Return what to do on a node in the state ``observed`` (shape of `observe.observe`) to have ``parts``.

    A file that an earlier run wrote for the same part and that is no longer desired is removed. A name that was not
    observed counts as absent.
    """
    desired = files_of(parts)
    before = observed.get("managed", {})
    states = observed["files"]
    write = [file for path, file in sorted(desired.items()) if _file_differs(file, states.get(path))]
    dropped = {path for part in parts for path in before.get(part["name"], {}).get("files", []) if path not in desired}
    remove = sorted(path for path in dropped.union(_entries(parts, "absent")) if states.get(path) is not None)
    sysctls = {
        name: str(value)
        for part in parts
        for name, value in sorted((part.get("sysctls") or {}).items())
        if observed["sysctls"].get(name) != " ".join(str(value).split())
    }
    touched = [file.path for file in write] + remove
    reload = any(path.startswith(UNIT_FOLDERS) for path in touched) or any(
        observed["units"].get(unit["name"], {}).get("reload") for unit in _entries(parts, "units")
    )
    record = dict(before, **record_of(parts))
    return Plan(
        write=write,
        remove=remove,
        sysctls=sysctls,
        reload=reload,
        managed=record if record != before else None,
        **_units(parts, observed, touched),
    )


def diff(todo: Plan, root: str = "/") -> list[dict[str, str]]:
    """Return the plan's file changes in Ansible's diff form, those of secret files without content."""
    out = []
    for file in todo.write:
        before = "" if file.secret else files.read_text(files.under(root, file.path))
        after = "" if file.secret else file.content
        header = f"{file.path} (content not shown)" if file.secret else file.path
        out.append({"before": before, "after": after, "before_header": header, "after_header": header})
    for path in todo.remove:
        out.append({"before": path + "\n", "after": "", "before_header": path, "after_header": path + " (absent)"})
    return out


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _systemctl(run: Callable[..., program.ProgramResult], verb: str, units: list[str]) -> None:
    if not units and verb != "daemon-reload":
        return
    reply = run(["systemctl", verb] + (["--", *units] if units else []), timeout=180)
    if reply.code != 0:
        lines = [reply.complaint]
        for unit in units:
            lines.append(run(["journalctl", "--no-pager", "-q", "-o", "cat", "-n", "15", "-u", unit]).text)
        raise UnitFailed("systemctl {} {}: {}".format(verb, " ".join(units), "\n".join(line for line in lines if line)))


def apply(todo: Plan, root: str = "/", run: Callable[..., program.ProgramResult] = program.run) -> None:
    """Apply a plan. Raises OSError for a file or sysctl, `UnitFailed` for a unit.

    The next run completes a killed one, because it plans from the actual state. Until the end, the record has both old
    and new files, so that a killed run loses track of none.
    """
    if todo.managed is not None:
        before = observe.managed(root)
        _record({**before, **{name: _merged(before.get(name, {}), new) for name, new in todo.managed.items()}}, root)
    # Before their files are removed.
    _systemctl(run, "disable", todo.disable)
    _systemctl(run, "stop", todo.stop)
    for file in todo.write:
        path = files.under(root, file.path)
        files.write(path, file.content, int(file.mode, 8), owner=file.owner, group=file.group)
    for name in todo.remove:
        _remove(files.under(root, name))
    for name, value in todo.sysctls.items():
        with open(files.under(root, observe.sysctl_path(name)), "w", encoding="ascii") as stream:
            stream.write(value + "\n")
    if todo.reload:
        _systemctl(run, "daemon-reload", [])
    _systemctl(run, "enable", todo.enable)
    _systemctl(run, "restart", todo.restart)
    _systemctl(run, "start", todo.start)
    _systemctl(run, "reload", todo.refresh)
    if todo.managed is not None:
        _record(todo.managed, root)


def _merged(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return dict(after, files=sorted({*before.get("files", []), *after["files"]}))


def _record(parts: dict[str, Any], root: str) -> None:
    files.write_json(files.under(root, observe.MANAGED), {"version": 1, "parts": parts})


def converge(parts: list[dict[str, Any]], check: bool, root: str = "/") -> tuple[Plan, list[dict[str, str]]]:
    """Observe, plan and (unless ``check``) apply; return the plan and its diff."""
    todo = plan(parts, observe.observe(to_observe(parts, observe.managed(root)), root))
    changes = diff(todo, root)
    if not check:
        apply(todo, root)
    return todo, changes
