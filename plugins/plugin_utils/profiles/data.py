"""Readers of the files below configs/, quantities, and how one document is laid over another."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import provider_traits

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_QUANTITY = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?(KiB|MiB|GiB|TiB)?")


def schema(configs: Path) -> dict[str, Any]:
    """Return the schema of profiles."""
    loaded: dict[str, Any] = json.loads((configs / "schema" / "profile.json").read_text(encoding="utf-8"))
    # The file has those that editors are to offer; a file in configs/providers is enough for another.
    providers = loaded["properties"]["provider"]["enum"]
    providers += [name for name in provider_traits.names(configs) if name not in providers]
    return loaded


def allowed(rules: Mapping[str, Any], key: str) -> list[str]:
    """Return the values that the schema ``rules`` allows for a top-level key."""
    return list(rules["properties"][key]["enum"])


def planned(rules: Mapping[str, Any], key: str) -> list[str]:
    """Return the values of a top-level key that are not built yet."""
    return list(rules["properties"][key].get(documents.NOT_BUILT, []))


def stems(folder: Path) -> list[str]:
    """Return the names of the YAML files in ``folder``."""
    return sorted(path.stem for path in folder.glob("*.yml"))


def read(path: Path) -> dict[str, Any]:
    """Return the content of one of our own data files; do not change it. Raises DevenvError as for a profile."""
    try:
        about = path.stat()
    except OSError:
        return documents.read(path).data
    return _read_once(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=64)
def _read_once(path: Path, _changed: int, _size: int) -> dict[str, Any]:
    # The catalogue of profiles reads each file once per profile.
    return documents.read(path).data


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``above`` laid over ``below``: mappings merge, everything else replaces. Shares nothing with the two."""
    merged: dict[str, Any] = {key: copy.deepcopy(value) for key, value in below.items()}
    for key, value in above.items():
        inner = merged.get(key)
        if isinstance(inner, dict) and isinstance(value, Mapping):
            merged[key] = merge(inner, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def parse_quantity(quantity: str | int) -> int:
    """Return the bytes of ``"4GiB"``, ``"1.5GiB"``, ``"1024"`` or 1024. Raises DevenvError profile_invalid."""
    match = _QUANTITY.fullmatch(str(quantity))
    if not match or isinstance(quantity, bool):
        raise DevenvError(
            "profile_invalid", f"{json.dumps(quantity)} is no size: bytes, or a number with KiB, MiB, GiB or TiB"
        )
    whole, fraction, unit = match[1], match[2] or "", _UNITS[match[3] or ""]
    if fraction and unit == 1:
        raise DevenvError("profile_invalid", f"{json.dumps(quantity)} is no whole number of bytes")
    return int(whole) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
