"""Versions of a profile's form (``apiVersion``), and how a document of an older one becomes one of the newest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

KEY = "apiVersion"
FIRST = "devenv.lab/v1"

Migration = Callable[[dict[str, Any]], dict[str, Any]]
# A version to the one after it, and the function that turns a document of the former into one of the latter.
MIGRATIONS: Mapping[str, tuple[str, Migration]] = MappingProxyType({})


def known(migrations: Mapping[str, tuple[str, Migration]] = MIGRATIONS) -> list[str]:
    """Return all versions, the oldest first."""
    versions = [FIRST]
    while versions[-1] in migrations:
        versions.append(migrations[versions[-1]][0])
    return versions


def migrate(
    document: Mapping[str, Any], where: str, migrations: Mapping[str, tuple[str, Migration]] = MIGRATIONS
) -> dict[str, Any]:
    """Return ``document`` in the newest form, without its version; one without a version has the first.

    Raises DevenvError profile_invalid for an unknown version.
    """
    version = document.get(KEY, FIRST)
    versions = known(migrations)
    if version not in versions:
        raise DevenvError(
            "profile_invalid", f"{KEY}: {json.dumps(version)} is not known; allowed: {', '.join(versions)}", where=where
        )
    migrated = {key: value for key, value in document.items() if key != KEY}
    for older in versions[versions.index(version) : -1]:
        migrated = migrations[older][1](migrated)
    return migrated
