"""Begin an environment from a snapshot: check everything that can be wrong before anything is created."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import stages, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import record as records
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.catalogue import Snapshot
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.record import Record

# Bytes that stay free on the disk.
RESERVE = 512 * 2**20


def begin(home: Path, folder: Path, requested: str, resolved: Profile, *, check: bool = False) -> str:
    """Return the name of the snapshot from which the environment of a state directory has yet to start; empty if none.

    ``requested`` is the name that the user gave, empty for that of an earlier run. Unless ``check`` is true, the
    environment then has a record. Raises DevenvError ``snapshot_unknown``, ``snapshot_broken``, ``snapshot_differs``,
    ``snapshot_disk``, ``snapshot_environment``.
    """
    record = records.read(folder)
    if record is None and not requested:
        return ""
    if record is not None and requested and record.name != requested:
        raise DevenvError("snapshot_environment", f"was created from the snapshot {record.name}", where=folder.name)
    if record is not None and record.done:
        return ""
    if record is None and folder.is_dir() and not stages.is_untouched(folder):
        raise DevenvError("snapshot_environment", "already exists", where=folder.name)
    snapshot = catalogue.read(home, record.name if record else requested)
    texts = differences(snapshot.manifest["profile"], resolved)
    if texts:
        raise DevenvError("snapshot_differs", "; ".join(texts), where=snapshot.name)
    if record is not None and record.digest != snapshot.digest:
        raise DevenvError(
            "snapshot_broken", f"is not the snapshot from which {folder.name} was started", where=snapshot.name
        )
    catalogue.verify(snapshot)
    need_space(home, snapshot.size)
    if not check:
        records.write(folder, Record(snapshot.name, snapshot.digest))
    return snapshot.name


def need_space(folder: Path, size: int) -> None:
    """Raise DevenvError ``snapshot_disk`` if ``size`` bytes do not fit on the disk of ``folder``."""
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        text = f"{size >> 20} MiB are required and {free >> 20} MiB are free"
        raise DevenvError("snapshot_disk", text, where=str(folder))


def seed_network(snapshot: Snapshot, folder: Path) -> bool:
    """Write the saved addresses into a new state directory, unless they are those of one node with the first index;
    return whether it was written.

    The provider uses the subnets if they are free. It always keeps the nodes' indexes, on which pod ranges depend.
    """
    # The only node of a snapshot of one cluster can have another index than the first.
    has_first_index = all(node["index"] == 0 for node in snapshot.manifest["network"]["nodes"].values())
    if (len(snapshot.manifest["nodes"]) < 2 and has_first_index) or state.read_network(folder) is not None:
        return False
    network: NetworkPlan = {**snapshot.manifest["network"]}
    network.pop("bridge", None)
    return state.write_network(folder, network)


def differences(saved: Profile, resolved: Profile) -> list[str]:
    """Return the differences that prevent an environment of the profile ``resolved`` from starting with a snapshot of
    ``saved``. Sizes, labels and taints of nodes may differ.
    """
    old, new = (_shared_values(profile) for profile in (saved, resolved))
    return [
        *(
            f"{path} is {old[path]} in the snapshot, {new[path]} in the profile"
            for path in new
            if path in old and old[path] != new[path]
        ),
        *(f"{path}: not in the snapshot" for path in new if path not in old),
        *(f"{path}: in the snapshot, not in the profile" for path in old if path not in new),
    ]


def _shared_values(profile: Profile) -> dict[str, Any]:
    """Return the values that an environment shares with its snapshot, by their path in the profile."""
    values: dict[str, Any] = {
        "topology": profile["topology"],
        "stack": profile["stack"],
        "kubernetes.version": profile["kubernetes"]["version"],
        "kubernetes.engine": profile["kubernetes"]["engine"],
        "network.pods": profile["network"]["pods"],
        "network.services": profile["network"]["services"],
    }
    for node in profile["nodes"]:
        cluster = f" of cluster {node['cluster']}" if node.get("cluster") else ""
        values[f"nodes.{node['name']}"] = f"{node['group']}{cluster}"
    return values


def profile_of(snapshot: Snapshot, overrides: Mapping[str, Any] | None = None) -> Profile:
    """Return the resolved profile of a snapshot with ``overrides`` (as resolve takes them).

    Raises DevenvError as resolve does, and ``snapshot_differs`` for a profile that this version cannot resolve.
    """
    try:
        saved = amend.amend(snapshot.manifest["profile"], {})
    except (DevenvError, KeyError, TypeError, AttributeError, OSError) as error:
        # OSError: a part of the profile, such as its stack, has no file in configs.
        detail = error.message if isinstance(error, DevenvError) else f"{type(error).__name__}: {error}"
        problem = f"its profile cannot be resolved: {detail}"
        advice = "Name a profile that has the same nodes: devenv up --snapshot NAME --profile PROFILE"
        raise DevenvError("snapshot_differs", problem, advice=advice, where=snapshot.name) from None
    return amend.amend(saved, overrides) if overrides else saved
