"""Begin and end of a stage, and the end of an environment (docs/design/stages.md)."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import changes, engines, names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.changes import Change
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

# Stages that leave nothing outside the state folder and the cache: an environment that saw no other is not one yet.
HARMLESS = frozenset({"preflight", "bundle"})


@dataclass(frozen=True)
class Begun:
    """What a stage's begin found: the run's id and folder (None in check mode), whether it was the first of its run,
    and whether the environment is new.
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
    check: bool = False,
    while_upgrading: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Begun:
    """Begin ``stage`` for the ansible process ``me``; the first begin of a run takes the lock and makes the folders.

    ``resolved`` is the profile (None: none was given), ``hosts`` how many nodes it gave. Stage ``down`` needs
    neither. In check mode nothing is written or ended. ``while_upgrading``: the run is for an environment whose nodes
    have two versions, too. Raises DevenvError ``name_invalid``, ``profile_not_given``, ``environment_busy``,
    ``profile_changed``, ``upgrade_unfinished``, ``leftovers_remain``, ``state_unwritable``; a first begin that fails
    leaves no lock, and no folder that was not there.
    """
    names.validate(folder.name)
    if stage != "down" and (resolved is None or hosts == 0):
        raise DevenvError(
            "profile_not_given", "no profile was given" if resolved is None else "the profile gave no hosts"
        )
    if check:
        holder = lock.read(folder)
        if holder is None or not lock.is_same(holder, me):
            lock.check(folder)
        if stage != "down" and resolved is not None:
            compare(folder, resolved, while_upgrading=while_upgrading)
        return Begun(me.run_id, None, True, not folder.is_dir())
    created = not folder.is_dir()
    first = lock.acquire(folder, me, progress=progress)
    try:
        holder = lock.read(folder) or me
        place = runs.folder_of(folder, holder.run_id)
        if first and stage != "down" and resolved is not None:
            compare(folder, resolved, while_upgrading=while_upgrading)
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


def compare(folder: Path, resolved: Profile, *, while_upgrading: bool = False) -> None:
    """Raise DevenvError ``profile_changed``, naming each difference, when the environment cannot become what
    ``resolved`` asks for, ``control_plane_last`` when a cluster would lose what it knows, or ``engine_cannot`` when
    none can.
    """
    if not while_upgrading:
        upgrade_record.require_finished(folder)
    engines.require(resolved)
    old = state.read_profile(folder)
    if old is None or is_untouched(folder):
        return
    refused = [change for change in changes.between(old, resolved) if not change.applies]
    if refused:
        raise DevenvError("profile_changed", "; ".join(_difference(change) for change in refused), where=folder.name)
    members.check_change(old, resolved)


def is_untouched(folder: Path) -> bool:
    """Whether the environment never got beyond the stages that change nothing: the folder may go when such a run
    fails.
    """
    return not (folder / "network.yml").exists() and all(line.get("stage") in HARMLESS for line in runs.ledger(folder))


def _difference(change: Change) -> str:
    return f"{change.path}: {change.old!r} -> {change.new!r} ({change.why})"


def end(folder: Path, me: Holder, stage: str, *, last: bool = False) -> Path | None:
    """End ``stage``: after ``provision`` write the inventory, after ``down`` remove the folder and keep its run
    folders in the history, after the ``last`` one (``validate`` and ``down`` always are) give the lock back. Return
    the run's folder, where it is now.
    """
    names.validate(folder.name)
    holder = lock.read(folder)
    if holder is None or not lock.is_same(holder, me):
        raise DevenvError("run_ended", f"the lock of {folder.name} is not this run's any more")
    place = runs.folder_of(folder, holder.run_id)
    if stage == "provision":
        state.write_inventory(folder)
    if stage == "down":
        return remove(folder, run_id=holder.run_id)
    if last or stage == "validate":
        lock.release(folder, me)
    return place


def discard(folder: Path, me: Holder, run_id: str) -> Path | None:
    """After a failed run: when the environment is still untouched, remove its folder. Return where the run's folder
    went; None when all stays.
    """
    holder = lock.read(folder)
    if not names.is_name(folder.name) or not folder.is_dir() or not is_untouched(folder):
        return None
    if holder is not None and not lock.is_same(holder, me):
        return None
    return remove(folder, run_id=run_id)


def remove(folder: Path, *, run_id: str = "", keep: bool = True) -> Path | None:
    """Remove the state folder; ``keep`` moves its run folders to the history first, where the last runs.KEPT stay.
    Return where the folder of run ``run_id`` went."""
    names.validate(folder.name)
    if folder.parent.name != "environments":
        raise DevenvError("name_invalid", "not a state folder", where=str(folder))
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
    # Renamed first: whoever is killed in the middle of it leaves no half environment. The lock goes with it.
    with lock.guard(folder):
        os.replace(folder, folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.removed"))
    _bury(folder.parent)
    return moved


def _bury(environments_folder: Path) -> None:
    """Remove what was taken down, also what a killed run did not come to."""
    for grave in environments_folder.glob(".*.removed"):
        try:
            shutil.rmtree(grave)
        except FileNotFoundError:
            continue  # another run does the same
        except OSError as error:
            raise DevenvError("state_not_removed", f"{error.strerror}", where=str(error.filename or grave)) from None


def _end_ssh_masters(folder: Path) -> None:
    """End the ssh processes that keep connections to the nodes open, and remove their folder where it is not in the
    state folder.
    """
    sockets = Path(ssh_options.control_path(folder).removesuffix("/%C").replace("%%", "%"))
    processes.end_ssh_masters(sockets)
    if folder not in sockets.parents:
        shutil.rmtree(sockets, ignore_errors=True)
