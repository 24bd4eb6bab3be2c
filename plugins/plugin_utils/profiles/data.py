"""Files below configs/, the schema of profiles, sizes, and merging of documents."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents

# The group that a node's name implies.
GROUPS = {"master": "control_plane", "arbiter": "arbiters", "worker": "workers"}
NO_ENGINE = "no engine here can create it"
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_QUANTITY = re.compile(r"(?!0[0-9]+$)([0-9]{1,15})(?:\.([0-9]{1,3}))?(KiB|MiB|GiB|TiB)?")


def read(name: str) -> dict[str, Any]:
    """Return the content of ``configs/<name>.yml``. Callers must not change it: it is cached."""
    content: dict[str, Any] = data.read_once(paths.CONFIGS / f"{name}.yml")
    return content


def names_in(folder: str) -> list[str]:
    """Return the names of the YAML files in ``configs/<folder>``."""
    return sorted(path.stem for path in (paths.CONFIGS / folder).glob("*.yml"))


@cache
def not_creatable() -> tuple[str, ...]:
    """Return the topologies with a group of nodes that no engine supports."""
    supported = {group for engine in names_in("engines") for group in read(f"engines/{engine}")["groups"]}
    groups = {
        topology: {GROUPS[node.partition("-")[0]] for node in read(f"topologies/{topology}").get("nodes", {})}
        for topology in names_in("topologies")
    }
    return tuple(topology for topology, needed in groups.items() if not needed <= supported)


def marked(topology: str, text: str = "") -> str:
    """Return ``text`` (by default the name of the topology), with a mark if no engine can create the topology."""
    return f"{text or topology} ({NO_ENGINE})" if topology in not_creatable() else text or topology


def schema() -> dict[str, Any]:
    """Return the schema of profiles."""
    loaded: dict[str, Any] = json.loads((paths.CONFIGS / "schema" / "profile.json").read_text(encoding="utf-8"))
    # The file lists those that editors offer; another provider needs only its file in configs/providers.
    providers = loaded["properties"]["provider"]["enum"]
    providers += [name for name in names_in("providers") if name not in providers]
    loaded["properties"]["topology"][documents.MARKS] = dict.fromkeys(not_creatable(), NO_ENGINE)
    return loaded


def allowed(rules: Mapping[str, Any], key: str) -> list[str]:
    """Return the values that the schema ``rules`` allows for a top-level key."""
    return list(rules["properties"][key]["enum"])


def planned(rules: Mapping[str, Any], key: str) -> list[str]:
    """Return the values of a top-level key that are not built yet."""
    return list(rules["properties"][key].get(documents.NOT_BUILT, []))


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy of ``below`` with ``above`` merged in: mappings merge, every other value is replaced."""
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
            "profile_invalid",
            f"{json.dumps(quantity)} is not a valid size; use bytes, or a number with KiB, MiB, GiB or TiB",
        )
    whole, fraction, unit = match[1], match[2] or "", _UNITS[match[3] or ""]
    if fraction and unit == 1:
        raise DevenvError("profile_invalid", f"{json.dumps(quantity)} is not a whole number of bytes")
    return int(whole) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
