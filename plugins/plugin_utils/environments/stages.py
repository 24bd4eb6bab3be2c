"""Begin and end a stage, and remove an environment (docs/design/stages.md)."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, processes
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import (
    lock,
    members,
    runs,
    ssh_keys,
    ssh_options,
    state,
    upgrade_record,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.lock import Holder
from ansible_collections.devenv.lab.plugins.plugin_utils.host import path_check
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import changes, engines, names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.checks import local_files
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.variables import kept

# Stages that change nothing outside the state directory and the cache.
HARMLESS = frozenset({"preflight", "bundle"})


@dataclass(frozen=True)
class Begun:
    """A begun stage: the run's id and directory (None in check mode), whether the stage is the first of its run, and
    whether the environment is new.
    """

    run_id: str
    run_dir: Path | None
    first: bool
    created: bool


def begin(
    folder: Path,
    me: Holder,
    stage: str,
    *,
    resolved: Profile | None,
    hosts: int,
    variables: Mapping[str, Any] = MappingProxyType({}),
    check: bool = False,
    while_upgrading: bool = False,
    needs_nodes: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Begun:
    """Begin ``stage`` for the ansible process ``me``; the first begin of a run takes the lock and creates directories.

    ``resolved`` is the profile (None: not given), ``hosts`` the number of its nodes; stage ``down`` needs neither.
    ``variables`` are the given role variables that the state keeps. In check mode nothing is written or stopped.
    ``while_upgrading``: allow nodes of two versions. ``needs_nodes``: refuse an environment without nodes, as a run
    that begins with a stage after provision does. Raises DevenvError ``name_invalid``, ``profile_not_given``,
    ``nodes_none``, ``environment_busy``, ``profile_changed``, ``variable_changed``, ``upgrade_unfinished``,
    ``leftovers_remain``, ``state_unwritable``. A first begin that fails leaves no lock and no new directory.
    """
    names.validate(folder.name)
    if stage != "down":
        path_check.require_usable()
    late = stage not in (*HARMLESS, "provision", "down")
    if stage != "down" and (resolved is None or hosts == 0):
        if (needs_nodes or late) and folder.is_dir():
            require_nodes(folder)
        message = "no profile was given" if resolved is None else "the profile has no hosts"
        raise DevenvError("profile_not_given", message)
    if needs_nodes:
        require_nodes(folder)
    if check:
        holder = lock.read(folder)
        if holder is None or not lock.is_same(holder, me):
            lock.check(folder)
        if stage != "down" and resolved is not None:
            compare(folder, resolved, while_upgrading=while_upgrading)
            kept.require_same(folder, variables)
        return Begun(me.run_id, None, True, not folder.is_dir())
    created = not folder.is_dir()
    first = lock.acquire(folder, me, progress=progress)
    try:
        holder = lock.read(folder) or me
        place = runs.folder_of(folder, holder.run_id)
        if first and late:
            require_nodes(folder)
        if first and stage != "down" and resolved is not None:
            compare(folder, resolved, while_upgrading=while_upgrading)
            kept.keep(folder, variables)
            state.write_profile(folder, resolved)
        place = place or runs.make(folder, holder.run_id)
        if stage == "provision":
            ssh_keys.ensure(folder)
        runs.add_line(folder, run=holder.run_id, stage=stage, result="begun")
        return Begun(holder.run_id, place, first, created)
    except BaseException as error:
        if first and created:
            remove(folder, keep=False)
        elif first:
            lock.release(folder, me)
        if isinstance(error, OSError):
            where = str(error.filename or folder)
            raise DevenvError("state_unwritable", f"{error.strerror}", where=where) from None
        raise


def require_nodes(folder: Path) -> None:
    """Raise DevenvError ``nodes_none`` if no node of the environment was ever created."""
    if not (folder / "network.yml").exists():
        raise DevenvError("nodes_none", f"environment {folder.name} has no nodes yet")


def compare(folder: Path, resolved: Profile, *, while_upgrading: bool = False) -> None:
    """Raise DevenvError if the environment cannot apply the profile ``resolved``: ``profile_changed``, naming each
    difference, ``control_plane_last`` if a cluster would lose its control plane, ``engine_cannot``,
    ``upgrade_unfinished``.
    """
    if not while_upgrading:
        upgrade_record.require_finished(folder)
    engines.require(resolved)
    local_files.require(resolved)
    old = state.read_profile(folder)
    if old is None or is_untouched(folder):
        return
    refused = [change for change in changes.between(old, resolved) if not change.applies]
    if refused:
        differences = [f"{change.path}: {change.old!r} -> {change.new!r} ({change.why})" for change in refused]
        raise DevenvError("profile_changed", "; ".join(differences), where=folder.name)
    members.check_change(old, resolved)


def is_untouched(folder: Path) -> bool:
    """Return whether the environment only had stages that change nothing: if its run fails, remove its directory."""
    return not (folder / "network.yml").exists() and all(line.get("stage") in HARMLESS for line in runs.ledger(folder))


def end(folder: Path, me: Holder, stage: str, *, last: bool = False) -> Path | None:
    """End ``stage``: after ``provision`` write the inventory, after ``down`` remove the directory and move its run
    directories to the history, after the ``last`` one (``validate`` always is) release the lock. Return the run's
    directory at its new place.
    """
    names.validate(folder.name)
    holder = lock.read(folder)
    if holder is None or not lock.is_same(holder, me):
        raise DevenvError("run_ended", f"this run no longer holds the lock of {folder.name}")
    place = runs.folder_of(folder, holder.run_id)
    if stage == "provision":
        state.write_inventory(folder)
    if stage == "down":
        return remove(folder, run_id=holder.run_id)
    if last or stage == "validate":
        lock.release(folder, me)
    return place


def discard(folder: Path, me: Holder, run_id: str) -> Path | None:
    """Remove the directory of an untouched environment after a failed run. Return the run's directory at its new
    place; None if nothing was removed.
    """
    holder = lock.read(folder)
    if not names.is_name(folder.name) or not folder.is_dir() or not is_untouched(folder):
        return None
    if holder is not None and not lock.is_same(holder, me):
        return None
    return remove(folder, run_id=run_id)


def remove(folder: Path, *, run_id: str = "", keep: bool = True) -> Path | None:
    """Remove the state directory. With ``keep``, first move its run directories to the history, where the last
    runs.KEPT stay. Return the directory of run ``run_id`` at its new place.
    """
    names.validate(folder.name)
    if folder.parent.name != "environments":
        raise DevenvError("name_invalid", "is not a state directory", where=str(folder))
    history = folder.parent.parent / "history" / folder.name
    moved = None
    if keep:
        for place in runs.folders(folder):
            files.make_private(history, folder.parent.parent)
            target = history / place.name
            shutil.move(place, target)
            if run_id and place.name.partition("-")[2] == run_id:
                moved = target
        if history.is_dir():
            runs.trim(history)
    _end_ssh_masters(folder)
    # Renamed first, lock included: a run killed during the removal leaves no incomplete environment.
    with lock.guard(folder):
        os.replace(folder, folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.removed"))
    _delete_removed(folder.parent)
    return moved


def _delete_removed(environments_folder: Path) -> None:
    """Delete renamed directories, including those that a killed run left."""
    for removed in environments_folder.glob(".*.removed"):
        try:
            shutil.rmtree(removed)
        except FileNotFoundError:
            continue  # another run deletes it too
        except OSError as error:
            raise DevenvError("state_not_removed", f"{error.strerror}", where=str(error.filename or removed)) from None


def _end_ssh_masters(folder: Path) -> None:
    """Stop the ssh processes that keep connections to the nodes open, and remove their directory if it is outside the
    state directory.
    """
    sockets = Path(ssh_options.control_path(folder).removesuffix("/%C").replace("%%", "%"))
    processes.end_ssh_masters(sockets)
    if folder not in sockets.parents:
        shutil.rmtree(sockets, ignore_errors=True)
