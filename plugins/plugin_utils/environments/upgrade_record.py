"""The record of an unfinished upgrade: ``upgrade.json`` of the state directory, ``{"from", "to"}``.

It exists from before the first change of a node until all nodes and ``profile.yml`` have the new version. Meanwhile,
nodes can have two versions of Kubernetes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state

FILE = "upgrade.json"


def pending(folder: Path) -> dict[str, str] | None:
    """Return ``{"from", "to"}`` of an unfinished upgrade, or None. Raises DevenvError ``state_broken``."""
    try:
        data = json.loads((folder / FILE).read_text())
        return {key: str(data[key]) for key in ("from", "to")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise DevenvError("state_broken", "is not a valid record of an upgrade", where=str(folder / FILE)) from None


def require_finished(folder: Path) -> None:
    """Raise DevenvError ``upgrade_unfinished`` if an upgrade is unfinished."""
    begun = pending(folder)
    if begun is not None:
        raise unfinished(folder.name, begun)


def unfinished(name: str, begun: Mapping[str, str]) -> DevenvError:
    """Return the error that names the unfinished upgrade ``begun``."""
    return DevenvError(
        "upgrade_unfinished",
        f"its upgrade from Kubernetes {begun['from']} to {begun['to']} is not finished",
        where=name,
        advice=f"devenv upgrade -n {name} --kubernetes {begun['to']} continues; devenv down removes the environment.",
    )


def begin(folder: Path, old: str, new: str) -> bool:
    """Write the record, before the first node changes; return whether it changed."""
    return files.write(folder / FILE, json.dumps({"from": old, "to": new}) + "\n")


def finish(folder: Path, new: str) -> bool:
    """Write the new version of all nodes to profile.yml and inventory.yml, then remove the record.

    Return whether anything changed.
    """
    resolved = state.stored_profile(folder)
    resolved["kubernetes"] = {**resolved["kubernetes"], "version": new}
    changed = [state.write_profile(folder, resolved), state.write_inventory(folder)]
    if (folder / FILE).exists():
        (folder / FILE).unlink()
        changed.append(True)
    return any(changed)
