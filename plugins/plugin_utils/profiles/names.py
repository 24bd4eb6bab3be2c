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
    """Return whether ``text`` can be the name of an environment."""
    return _ENVIRONMENT.fullmatch(text) is not None


def validate(name: str) -> str:
    """Return ``name``, that of an environment. Raises DevenvError name_invalid."""
    if not isinstance(name, str) or not is_name(name):
        raise DevenvError("name_invalid", f"{json.dumps(str(name)[:60])} is no name for an environment")
    return name


def is_path(profile: str) -> bool:
    """Return whether ``profile`` is the path of a profile's file, not the name of a profile."""
    return "/" in profile or profile.endswith((".yml", ".yaml")) or profile in (".", "..")


def of_environment(profile: str) -> str:
    """Return the default name of an environment of ``profile``: its name or its file's stem, made to fit."""
    stem = Path(profile).name
    if is_path(profile):
        stem = re.sub(r"\.ya?ml$", "", stem)
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40].strip("-") or "devenv"


def canonical(configs: Path = paths.CONFIGS) -> list[str]:
    """Return all canonical names, topology by topology."""
    schema = data.schema(configs)
    return [
        f"{topology}-{stack}-{addressing}"
        for topology in data.stems(configs / "topologies")
        for stack in data.allowed(schema, "stack")
        for addressing in data.allowed(schema, "addressing")
    ]


def find(name: str, configs: Path, schema: Mapping[str, Any]) -> tuple[Path | None, dict[str, Any]]:
    """Return the file of a profile's name, or None and the document that a canonical name stands for.

    Raises DevenvError profile_unknown or not_built.
    """
    plain = name.replace("_", "-")
    if _WORD.fullmatch(plain):
        if plain in data.stems(configs / "profiles"):
            return configs / "profiles" / f"{plain}.yml", {}
        document = _parse(plain, schema)
        planned = data.planned(schema, "topology")
        if document and document["topology"] in [*data.stems(configs / "topologies"), *planned]:
            if not all(key in _AXES and word in data.allowed(schema, key) for key, word in document.items()):
                documents.validate(document, schema, f"profile {name}")
            return None, document
        if plain in planned:
            documents.validate({"topology": plain}, schema, f"profile {name}")
    known = [*data.stems(configs / "profiles"), *canonical(configs)]
    near = documents.nearest(plain.lower(), known)
    hint = f"; the nearest name is {near}" if near else ""
    raise DevenvError("profile_unknown", f"no profile is named {json.dumps(name[:60])}{hint}")


def _parse(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return topology, stack, addressing and (all that follows) connectivity of a canonical name; else nothing."""
    stacks, ways = ("|".join(map(re.escape, _words(schema, key))) for key in ("stack", "addressing"))
    match = re.fullmatch(rf"(.+?)-({stacks})-({ways})(?:-(.+))?", name)
    if not match:
        return {}
    document = {"topology": match[1], "stack": match[2], "addressing": match[3]}
    return {**document, "connectivity": match[4]} if match[4] else document


def _words(schema: Mapping[str, Any], key: str) -> list[str]:
    # The longer ones first, so that none is found as the beginning of another.
    return sorted([*data.allowed(schema, key), *data.planned(schema, key)], key=len, reverse=True)
