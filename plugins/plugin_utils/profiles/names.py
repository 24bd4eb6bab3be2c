"""Names of profiles and of environments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents

_ENVIRONMENT = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_AXES = ("topology", "stack", "addressing")
_WORD = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def is_name(text: str) -> bool:
    """Return whether ``text`` is a valid name of an environment."""
    return _ENVIRONMENT.fullmatch(text) is not None


def validate(name: str) -> str:
    """Return the environment's name ``name``. Raises DevenvError name_invalid."""
    if not isinstance(name, str) or not is_name(name):
        raise DevenvError("name_invalid", f"{json.dumps(str(name)[:60])} is not a valid name for an environment")
    return name


def is_path(profile: str) -> bool:
    """Return whether ``profile`` is the path of a profile's file or standard input, not the name of a profile."""
    return "/" in profile or profile.endswith((".yml", ".yaml")) or profile in (".", "..", documents.STDIN)


def of_environment(profile: str) -> str:
    """Return the default name of an environment: the profile's name or its file's stem, converted to a valid name."""
    stem = Path(profile).name
    if is_path(profile):
        stem = re.sub(r"\.ya?ml$", "", stem)
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40].strip("-") or "devenv"


def canonical() -> list[str]:
    """Return all canonical names, topology by topology."""
    schema = data.schema()
    return [
        f"{topology}-{stack}-{addressing}"
        for topology in data.names_in("topologies")
        for stack in data.allowed(schema, "stack")
        for addressing in data.allowed(schema, "addressing")
    ]


def find(name: str, schema: Mapping[str, Any]) -> tuple[Path | None, dict[str, Any]]:
    """Return the file of a profile's name, or None and the document that a canonical name stands for.

    Raises DevenvError profile_unknown or not_built.
    """
    plain = name.replace("_", "-")
    files = data.names_in("profiles")
    if _WORD.fullmatch(plain):
        if plain in files:
            return paths.CONFIGS / "profiles" / f"{plain}.yml", {}
        document = _parse(plain, schema)
        planned = data.planned(schema, "topology")
        if document and document["topology"] in [*data.names_in("topologies"), *planned]:
            if not all(key in _AXES and word in data.allowed(schema, key) for key, word in document.items()):
                documents.validate(document, schema, f"profile {name}")
            return None, document
        if plain in planned:
            documents.validate({"topology": plain}, schema, f"profile {name}")
    nearest = documents.nearest(plain.lower(), [*files, *canonical()])
    hint = f"; the nearest name is {nearest}" if nearest else ""
    raise DevenvError("profile_unknown", f"no profile is named {json.dumps(name[:60])}{hint}")


def _parse(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return topology, stack, addressing and the remainder (connectivity) of a canonical name; empty for others."""
    stack, addressing = ("|".join(map(re.escape, _words(schema, key))) for key in ("stack", "addressing"))
    match = re.fullmatch(rf"(.+?)-({stack})-({addressing})(?:-(.+))?", name)
    if not match:
        return {}
    document = {"topology": match[1], "stack": match[2], "addressing": match[3]}
    return {**document, "connectivity": match[4]} if match[4] else document


def _words(schema: Mapping[str, Any], key: str) -> list[str]:
    # Longest first: a word can be the beginning of another.
    return sorted([*data.allowed(schema, key), *data.planned(schema, key)], key=len, reverse=True)
