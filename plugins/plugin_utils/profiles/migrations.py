"""Versions of the profile format (``apiVersion``), and migration of older documents to the newest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

KEY = "apiVersion"
FIRST = "devenv.lab/v1"

Migration = Callable[[dict[str, Any]], dict[str, Any]]
# All versions, the oldest first, with the function that turns a document of the version before into one of it.
VERSIONS: Mapping[str, Migration] = MappingProxyType({FIRST: dict})


def migrate(document: Mapping[str, Any], where: str, versions: Mapping[str, Migration] = VERSIONS) -> dict[str, Any]:
    """Return ``document`` in the newest form, without its version; the default is the first version.

    Raises DevenvError profile_invalid for an unknown version.
    """
    version = document.get(KEY, FIRST)
    known = list(versions)
    if version not in known:
        message = f"{KEY}: {json.dumps(version)} is not known; allowed: {', '.join(known)}"
        raise DevenvError("profile_invalid", message, where=where)
    migrated = {key: value for key, value in document.items() if key != KEY}
    for newer in known[known.index(version) + 1 :]:
        migrated = versions[newer](migrated)
    return migrated
