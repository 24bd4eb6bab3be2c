"""The rules of what a snapshot includes, from configs/snapshots.yml."""

from __future__ import annotations

import functools
import os

from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths

Rules = dict[str, list[str]]


@functools.cache
def load() -> dict[str, Rules]:
    """Return the rules for ``volumes`` and for ``etcd``."""
    rules: dict[str, Rules] = data.read(paths.CONFIGS / "snapshots.yml")
    return rules


def is_below(path: str, folder: str) -> bool:
    """Return whether ``path`` is ``folder`` or inside it."""
    return f"{path}/".startswith(f"{folder}/")


def is_data(path: str) -> bool:
    """Return whether a folder of a node may hold data of an app."""
    clean, rules = os.path.normpath(path), load()["volumes"]
    if not clean.startswith("/") or clean in rules["shared"]:
        return False
    is_part_of_machine = any(is_below(clean, folder) for folder in rules["machine"])
    return not is_part_of_machine or any(clean.startswith(f"{folder}/") for folder in rules["storage"])


def is_dropped(key: str) -> bool:
    """Return whether an object is left out because of its key in etcd."""
    rules = load()["etcd"]
    return key in rules["keys"] or key.startswith(tuple(rules["prefixes"])) or key.endswith(tuple(rules["suffixes"]))


def is_derived(stored: bytes) -> bool:
    """Return whether endpoints, as stored in etcd, were written by a controller."""
    return any(mark.encode() in stored for mark in load()["etcd"]["derived"])
