"""The snapshots of a home: ``<home>/snapshots/<name>/`` (mode 0700, files 0600).

It contains ``manifest.json``, for each cluster ``etcd-<cluster>.db`` (cleaned, see ``clean``), for each node with data
``volumes-<node>.tar`` (paths relative to ``/``), and ``images-<digest>.tar`` with images of nodes that are not in the
bundle. A snapshot contains no keys or certificates of the saved cluster.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import sha256
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import record as records

FORMAT = 1
MANIFEST = "manifest.json"
# Prefix of a folder that is being removed.
REMOVED = ".removed-"


class FileEntry(TypedDict):
    """A file of a snapshot; ``size`` in bytes."""

    sha256: str
    size: int


class SavedCluster(TypedDict):
    """The file with etcd's data, and how many objects were kept, changed and removed."""

    etcd: str
    objects: dict[str, int]


class SavedNode(TypedDict):
    """Images that are not in the bundle with their archive, folders with data with their archive (empty: none)."""

    images: list[str]
    archive: str
    volumes: str
    paths: list[str]


class Manifest(TypedDict):
    """``manifest.json``. ``made`` is UTC (ISO 8601); ``unready`` names pods (namespace/name) that were not ready."""

    format: int
    name: str
    made: str
    environment: str
    profile: Profile
    network: NetworkPlan
    clusters: dict[str, SavedCluster]
    nodes: dict[str, SavedNode]
    files: dict[str, FileEntry]
    unready: list[str]


@dataclass(frozen=True)
class Snapshot:
    """A snapshot whose manifest was read."""

    name: str
    folder: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """sha256 of manifest.json, which contains those of all files."""
        return hashlib.sha256((self.folder / MANIFEST).read_bytes()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size"]) for entry in self.manifest["files"].values())

    @property
    def archives(self) -> dict[str, str]:
        """Path of the archive with images that are not in the bundle, by node."""
        nodes = self.manifest["nodes"].items()
        return {name: str(self.folder / node["archive"]) for name, node in nodes if node.get("archive")}


def folder_of(home: Path) -> Path:
    """Return the folder with all snapshots of a home."""
    return home / "snapshots"


def check_name(name: str) -> str:
    """Return ``name``. Raises DevenvError ``snapshot_name``."""
    if not profile_names.is_name(name):
        raise DevenvError("snapshot_name", f"{name!r} is not a valid name of a snapshot")
    return name


def check_new(home: Path, name: str) -> None:
    """Raise DevenvError ``snapshot_name`` or ``snapshot_taken`` unless the name is valid and free."""
    check_name(name)
    if (folder_of(home) / name).exists():
        raise taken(name)


def taken(name: str) -> DevenvError:
    """Return the error for the name of another snapshot."""
    return DevenvError("snapshot_taken", f"snapshot {name} already exists")


def names(home: Path) -> list[str]:
    """Return the names of the snapshots, sorted."""
    folder = folder_of(home)
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry.name for entry in entries if profile_names.is_name(entry.name) and (entry / MANIFEST).is_file()]


def read(home: Path, name: str) -> Snapshot:
    """Return the snapshot ``name``. Raises DevenvError ``snapshot_unknown`` (with the nearest name),
    ``snapshot_broken``.
    """
    check_name(name)
    folder = folder_of(home) / name
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        existing = names(home)
        near = difflib.get_close_matches(name, existing, n=1)
        advice = (
            f"Did you mean {near[0]}?" if near else f"Existing snapshots: {', '.join(existing)}" if existing else ""
        )
        raise DevenvError("snapshot_unknown", f"snapshot {name} does not exist", advice=advice) from None
    except (OSError, ValueError) as error:
        raise DevenvError("snapshot_broken", f"its manifest cannot be read: {error}", where=str(folder)) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DevenvError("snapshot_broken", f"its manifest is not of format {FORMAT}", where=str(folder))
    return Snapshot(name, folder, cast(Manifest, manifest))


def rows(home: Path) -> list[dict[str, Any]]:
    """Return one row per snapshot: name, profile, kubernetes, made, environment, nodes, images, bytes, state."""
    return [_row(home, name) for name in names(home)]


def _row(home: Path, name: str) -> dict[str, Any]:
    try:
        snapshot = read(home, name)
        manifest = snapshot.manifest
        return {
            "name": name,
            "profile": manifest["profile"]["profile"],
            "kubernetes": manifest["profile"]["kubernetes"]["version"],
            "made": manifest["made"],
            "environment": manifest["environment"],
            "nodes": sorted(manifest["nodes"]),
            "images": sorted({image for node in manifest["nodes"].values() for image in node["images"]}),
            "bytes": snapshot.size,
            "state": "whole" if _has_sizes(snapshot) else "broken",
        }
    except (DevenvError, KeyError, TypeError, AttributeError, ValueError):
        return {"name": name, "profile": "", "kubernetes": "", "made": "", "environment": "", "nodes": [],
                "images": [], "bytes": 0, "state": "broken"}  # fmt: skip


def _has_sizes(snapshot: Snapshot) -> bool:
    """Return whether every file exists with its size."""
    try:
        entries = snapshot.manifest["files"].items()
        return all((snapshot.folder / name).stat().st_size == entry["size"] for name, entry in entries)
    except OSError:
        return False


def verify(snapshot: Snapshot) -> None:
    """Check the digest of every file. Raises DevenvError ``snapshot_broken`` that lists the changed files."""

    def problem(item: tuple[str, FileEntry]) -> str:
        name, entry = item
        try:
            digest = sha256(snapshot.folder / name)
        except OSError as error:
            return f"{name}: {error.strerror}"
        return "" if digest == entry["sha256"] else f"{name} has changed"

    with ThreadPoolExecutor(max_workers=4) as pool:
        problems = [text for text in pool.map(problem, snapshot.manifest["files"].items()) if text]
    if problems:
        raise DevenvError("snapshot_broken", "; ".join(problems), where=str(snapshot.folder))


def check_removal(home: Path, name: str) -> None:
    """Raise DevenvError ``snapshot_unknown`` or ``snapshot_in_use`` unless the snapshot, which may be broken, can be
    removed.
    """
    check_name(name)
    if not (folder_of(home) / name).is_dir():
        read(home, name)
    users = [environment for environment in state.environments(home) if _starts_from(home, environment, name)]
    if users:
        raise DevenvError("snapshot_in_use", f"{', '.join(users)} is still being created from it", where=name)


def remove(home: Path, name: str) -> None:
    """Remove a snapshot. Raises as `check_removal`."""
    check_removal(home, name)
    folder = folder_of(home) / name
    # In two steps, so that a killed run leaves no incomplete snapshot.
    removed = folder.with_name(f"{REMOVED}{secrets.token_hex(4)}")
    os.replace(folder, removed)
    shutil.rmtree(removed)


def _starts_from(home: Path, environment: str, name: str) -> bool:
    record = records.read(home / "environments" / environment)
    return record is not None and record.name == name and not record.done
