"""Fingerprint of the inputs of cluster.yml: the profile, the state directory, the bundle, the collection itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.checks import local_files
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import record as snapshot_record

# Parts of the collection that determine what a run does.
_PARTS = ("plugins", "roles", "playbooks", "configs", "inventories")
# Files of the state directory that a run restores if they were changed.
_WRITTEN = ("kubeconfig", "clusters/*/kubeconfig", "inventory.yml", "ssh/known_hosts", "ssh/*.pub")


def fingerprint(folder: Path, resolved: Profile) -> dict[str, str] | None:
    """Return the inputs as texts to compare; None during a run, or if a run left something unfinished."""
    try:
        current = state.read(folder)
    except DevenvError:
        return None
    if current.profile != dict(resolved) or current.run_dir is None or current.holder is not None:
        return None
    comparable = engines.traits(resolved["kubernetes"]["engine"])["unchanged"]
    if (folder / snapshot_record.FILE).exists() or not comparable:
        return None
    bundle = store.find(str(resolved["kubernetes"]["version"]))
    written = sorted(path for name in _WRITTEN for path in folder.glob(name))
    named = [path for path in local_files.named(resolved).values() if path.is_file()]
    return {
        "run": current.run_dir.name,
        "profile": _digest(json.dumps(resolved, sort_keys=True)),
        "network": _digest(json.dumps(current.network, sort_keys=True)),
        "bundle": bundle.digest if bundle else "",
        "files": _digest("".join(f"{path} {path.read_text()}\n" for path in [*written, *named])),
        "collection": _digest(_listing(paths.COLLECTION)),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _listing(collection: Path) -> str:
    """Return name, size and time of each file that determines what a run does: reading all of them takes longer."""
    lines = []
    for part in _PARTS:
        for path in sorted((collection / part).rglob("*")):
            if path.suffix != ".pyc" and path.is_file():
                status = path.stat()
                lines.append(f"{path.relative_to(collection)} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(lines)
