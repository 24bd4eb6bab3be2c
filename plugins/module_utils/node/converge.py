"""Compare what a node should have with what it has, and do the difference.

`plan` is a pure function of wish and observation: the same answers check mode, diff mode, the real run and the
controller, which skips the call to a node whose observation already matches.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.node import files, observe, program

UNIT_FOLDERS = ("/etc/systemd/system/", "/usr/local/lib/systemd/system/", "/run/systemd/system/")


class UnitFailed(Exception):
    """systemd could not bring a unit into the wanted state; the text ends with the unit's own last lines."""


class File(NamedTuple):
    """A file to have. ``secret`` files are shown nowhere."""

    path: str
    content: str
    mode: str
    owner: str
    group: str
    secret: bool


class Plan(NamedTuple):
    """The difference, in the order in which it is applied. Empty everywhere when nothing is to be done."""

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
        """Return whether applying it would change the node (its own record alone is no change)."""
        return any(self[:-1])


NOTHING = Plan([], [], {}, False, [], [], [], [], [], [], None)


def result(todo: Plan) -> dict[str, Any]:
    """Return the plan as a task result: names only."""
    return {
        "changed": todo.changes(),
        "written": [wish.path for wish in todo.write],
        "removed": todo.remove,
        "sysctls": sorted(todo.sysctls),
        "reloaded": todo.reload,
        "enabled": todo.enable,
        "disabled": todo.disable,
        "stopped": todo.stop,
        "restarted": todo.restart,
        "started": todo.start,
        "refreshed": todo.refresh,
    }


def files_of(parts: list[dict[str, Any]]) -> dict[str, File]:
    """Return every wanted file by path. Raises ValueError when two parts want the same one, or a file is wanted and
    unwanted.
    """
    wanted: dict[str, File] = {}
    for part in parts:
        for entry in part.get("files") or []:
            path = entry["path"]
            if path in wanted:
                raise ValueError("{} is wanted twice (part {})".format(path, part["name"]))
            secret = entry.get("secret_content") is not None
            content = entry["secret_content"] if secret else entry.get("content")
            wanted[path] = File(
                path,
                content or "",
                entry.get("mode") or "0644",
                entry.get("owner") or "root",
                entry.get("group") or "root",
                secret,
            )
    both = sorted(path for part in parts for path in part.get("absent") or [] if path in wanted)
    if both:
        raise ValueError("{} is wanted and unwanted".format(", ".join(both)))
    return wanted


def record_of(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return names to look at, by part: what `observe.managed` returns later."""
    return {
        part["name"]: {
            "files": sorted(entry["path"] for entry in part.get("files") or []),
            "sysctls": sorted(part.get("sysctls") or {}),
            "units": sorted(unit["name"] for unit in part.get("units") or []),
            "watch": sorted(
                {
                    path
                    for unit in part.get("units") or []
                    for path in [*(unit.get("restart_on") or []), *(unit.get("reload_on") or [])]
                }
                | set(part.get("absent") or [])
            ),
            "checks": {unit["name"]: unit["check"] for unit in part.get("units") or [] if unit.get("check")},
        }
        for part in parts
    }


def to_observe(parts: list[dict[str, Any]], before: dict[str, Any]) -> dict[str, Any]:
    """Return names to look at before a plan: the wish, what earlier runs looked after, and files wanted absent."""
    names: dict[str, Any] = dict(before)
    for name, record in record_of(parts).items():
        names[name + " (wish)"] = record
    names["absent"] = {"files": [path for part in parts for path in part.get("absent") or []]}
    return names


def _file_differs(wish: File, state: dict[str, Any] | None) -> bool:
    if state is None:
        return True
    have = (state["sha256"], state["mode"], state["owner"], state["group"])
    return have != (hashlib.sha256(wish.content.encode()).hexdigest(), wish.mode.rjust(4, "0"), wish.owner, wish.group)


def _units(parts: list[dict[str, Any]], observed: dict[str, Any], touched: list[str]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {"enable": [], "disable": [], "stop": [], "restart": [], "start": [], "refresh": []}

    # A run killed between writing a file and restarting its unit leaves a file that is newer than the unit.
    def stale(paths: list[str] | None, since: float) -> bool:
        return any(
            path in touched or ((observed["files"].get(path) or {}).get("mtime", 0) > since) for path in paths or []
        )

    for unit in (unit for part in parts for unit in part.get("units") or []):
        name, state = unit["name"], observed["units"].get(unit["name"], {})
        active = state.get("active") in ("active", "activating", "reloading")
        wanted, enabled = unit.get("state"), unit.get("enabled")
        if enabled is True and state.get("enabled") != "enabled":
            out["enable"].append(name)
        if enabled is False and state.get("enabled") in ("enabled", "enabled-runtime"):
            out["disable"].append(name)
        unwell = bool(unit.get("check")) and not observed["checks"].get(name, False)
        if wanted == "stopped":
            if active:
                out["stop"].append(name)
        elif active and (stale(unit.get("restart_on"), state.get("since", 0)) or unwell or state.get("reload")):
            out["restart"].append(name)
        elif wanted == "started" and not active:
            out["start"].append(name)
        elif active and stale(unit.get("reload_on"), state.get("changed", 0)):
            out["refresh"].append(name)
    # Two parts may name one unit: each brings its own files.
    out["refresh"] = [name for name in out["refresh"] if name not in out["restart"] + out["stop"]]
    return {verb: list(dict.fromkeys(names)) for verb, names in out.items()}


def plan(parts: list[dict[str, Any]], observed: dict[str, Any]) -> Plan:
    """Return what is to be done on a node that looks like ``observed`` (shape of `observe.observe`) to have ``parts``.

    A file that an earlier run wrote for the same part and that is wanted no more is removed. A name that was not
    looked at counts as absent.
    """
    wanted = files_of(parts)
    before = observed.get("managed", {})
    seen = observed["files"]
    write = [wish for path, wish in sorted(wanted.items()) if _file_differs(wish, seen.get(path))]
    dropped = {path for part in parts for path in before.get(part["name"], {}).get("files", []) if path not in wanted}
    unwanted = dropped | {path for part in parts for path in part.get("absent") or []}
    remove = sorted(path for path in unwanted if seen.get(path) is not None)
    sysctls = {
        name: str(value)
        for part in parts
        for name, value in sorted((part.get("sysctls") or {}).items())
        if observed["sysctls"].get(name) != " ".join(str(value).split())
    }
    touched = [wish.path for wish in write] + remove
    units = _units(parts, observed, touched)
    names = [unit["name"] for part in parts for unit in part.get("units") or []]
    reload = any(path.startswith(UNIT_FOLDERS) for path in touched) or any(
        observed["units"].get(name, {}).get("reload") for name in names
    )
    record = dict(before, **record_of(parts))
    return Plan(
        write=write,
        remove=remove,
        sysctls=sysctls,
        reload=reload,
        managed=record if record != before else None,
        **units,
    )


def diff(todo: Plan, root: str = "/") -> list[dict[str, str]]:
    """Return the plan's file changes in Ansible's diff form, secret ones by name only."""
    out = []
    for wish in todo.write:
        path = files.under(root, wish.path)
        before = "" if wish.secret else files.read_text(path)
        after = "" if wish.secret else wish.content
        header = f"{wish.path} (content not shown)" if wish.secret else wish.path
        out.append({"before": before, "after": after, "before_header": header, "after_header": header})
    for path in todo.remove:
        out.append({"before": path + "\n", "after": "", "before_header": path, "after_header": path + " (absent)"})
    return out


def write_file(wish: File, root: str = "/") -> None:
    """Write one file with its owner and mode."""
    path = files.under(root, wish.path)
    files.write(path, wish.content, int(wish.mode, 8), owner=wish.owner, group=wish.group)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _systemctl(run: Callable[..., program.ProgramResult], verb: str, units: list[str], timeout: float = 180) -> None:
    if not units and verb != "daemon-reload":
        return
    answer = run(["systemctl", verb] + (["--", *units] if units else []), timeout=timeout)
    if answer.code != 0:
        lines = [answer.complaint]
        for unit in units:
            lines.append(run(["journalctl", "--no-pager", "-q", "-o", "cat", "-n", "15", "-u", unit]).text)
        raise UnitFailed("systemctl {} {}: {}".format(verb, " ".join(units), "\n".join(line for line in lines if line)))


def apply(todo: Plan, root: str = "/", run: Callable[..., program.ProgramResult] = program.run) -> None:
    """Do it. Raises OSError for a file or sysctl, `UnitFailed` for a unit.

    A run killed in the middle is continued by the next one, since that plans from the machine again. The record names
    old and new files until the end, so that no killed run loses sight of one.
    """
    if todo.managed is not None:
        _record(_merged(observe.managed(root), todo.managed), root)
    # A unit whose file goes, too, can be stopped and disabled only before.
    _systemctl(run, "disable", todo.disable)
    _systemctl(run, "stop", todo.stop)
    for wish in todo.write:
        write_file(wish, root)
    for path in todo.remove:
        _remove(files.under(root, path))
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
    parts = dict(before)
    for name, record in after.items():
        old = before.get(name, {}).get("files", [])
        parts[name] = dict(record, files=sorted(set(old) | set(record["files"])))
    return parts


def _record(parts: dict[str, Any], root: str) -> None:
    files.write_json(files.under(root, observe.MANAGED), {"version": 1, "parts": parts})


def converge(parts: list[dict[str, Any]], check: bool, root: str = "/") -> tuple[Plan, list[dict[str, str]]]:
    """Observe, plan and (unless ``check``) apply; returns the plan and its diff."""
    seen = observe.observe(to_observe(parts, observe.managed(root)), root)
    todo = plan(parts, seen)
    changes = diff(todo, root)
    if not check:
        apply(todo, root)
    return todo, changes
