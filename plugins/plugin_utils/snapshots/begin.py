"""Begin an environment from a snapshot: find everything that can be wrong before anything is made."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import stages, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue, compare
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import record as records
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.record import Record

# Bytes that stay free on the disk.
RESERVE = 512 * 2**20


def begin(home: Path, folder: Path, wanted: str, resolved: Profile, *, check: bool = False) -> str:
    """Return the name of the snapshot that the environment of a state folder is yet to be made from; empty: none.

    ``wanted`` is what the user asked for, empty for whatever an earlier run began. Unless ``check`` is true, the
    environment then has a record. Raises DevenvError ``snapshot_unknown``, ``snapshot_broken``, ``snapshot_differs``,
    ``snapshot_disk``, ``snapshot_environment``.
    """
    record = records.read(folder)
    if record is None and not wanted:
        return ""
    if record is not None and wanted and record.name != wanted:
        raise DevenvError("snapshot_environment", f"was made from the snapshot {record.name}", where=folder.name)
    if record is not None and record.done:
        return ""
    if record is None and folder.is_dir() and not stages.is_untouched(folder):
        raise DevenvError("snapshot_environment", "is there already", where=folder.name)
    snapshot = catalogue.read(home, record.name if record else wanted)
    differences = compare.differences(snapshot.manifest["profile"], resolved)
    if differences:
        raise DevenvError("snapshot_differs", "; ".join(differences), where=snapshot.name)
    if record is not None and record.digest != snapshot.digest:
        raise DevenvError("snapshot_broken", f"is another one than {folder.name} was begun from", where=snapshot.name)
    catalogue.verify(snapshot)
    need_space(home, snapshot.size)
    if not check:
        records.write(folder, Record(snapshot.name, snapshot.digest))
    return snapshot.name


def need_space(folder: Path, size: int) -> None:
    """Raise DevenvError ``snapshot_disk`` when ``size`` bytes do not fit on the disk of ``folder``."""
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        raise DevenvError(
            "snapshot_disk", f"{size >> 20} MiB are needed and {free >> 20} MiB are free", where=str(folder)
        )


def seed_network(snapshot: catalogue.Snapshot, folder: Path) -> bool:
    """Write the saved addresses of several nodes into a new state folder; return whether something was written.

    The provider takes the subnets if they are free, and keeps the nodes' indexes, on which pod ranges depend, in any
    case.
    """
    if len(snapshot.manifest["nodes"]) < 2 or state.read_network(folder) is not None:
        return False
    network: NetworkPlan = {**snapshot.manifest["network"]}
    network.pop("bridge", None)
    return state.write_network(folder, network)
