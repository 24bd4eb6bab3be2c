"""Role variables that shape a cluster when it is created (``created_with`` of configs/engines): the state keeps their
values for later runs, and an existing cluster refuses other ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.variables import specs

FILE = "variables.yml"


def selected(engine: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of ``given`` that are kept, as plain data.

    Raises DevenvError variable_invalid for a key whose value follows from the profile.
    """
    for name, keys in engines.traits(engine).get("derived", {}).items():
        for key, source in keys.items():
            if isinstance(given.get(name), dict) and key in given[name]:
                message = f"{key} cannot be set here: it follows from {source}, which the profile sets"
                raise DevenvError("variable_invalid", message, where=f"-e {name}")
    names = engines.traits(engine).get("created_with", [])
    kept: dict[str, Any] = json.loads(json.dumps({key: given[key] for key in names if key in given}, default=str))
    return kept


def read(folder: Path) -> dict[str, Any]:
    """Return the values that the state directory keeps."""
    try:
        content = data.read(folder / FILE)
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DevenvError("state_broken", f"is not valid YAML: {error}", where=str(folder / FILE)) from None
    return content if isinstance(content, dict) else {}


def changes(folder: Path, given: Mapping[str, Any]) -> list[str]:
    """Return the values of ``given`` that the existing clusters would have to change, as texts."""
    if not any(folder.glob("clusters/*/kubeconfig")):
        return []
    stored = read(folder)
    pairs = [(name, stored.get(name, _default(name)), value) for name, value in given.items()]
    return [f"{name}: {json.dumps(old)} -> {json.dumps(new)}" for name, old, new in pairs if not _same(old, new)]


def _same(old: Any, new: Any) -> bool:
    # key=value gives text for numbers.
    if isinstance(old, dict | list) or isinstance(new, dict | list):
        return bool(old == new)
    return str(old).lower() == str(new).lower()


def require_same(folder: Path, given: Mapping[str, Any]) -> None:
    """Raise DevenvError variable_changed if an existing cluster was created with other values than ``given``."""
    refused = changes(folder, given)
    if refused:
        raise DevenvError("variable_changed", "; ".join(refused), where=folder.name)


def keep(folder: Path, given: Mapping[str, Any]) -> None:
    """Store the values ``given``. Raises DevenvError as `require_same` does."""
    require_same(folder, given)
    content = {**read(folder), **given}
    if given:
        files.write(folder / FILE, f"---\n{yaml.safe_dump(content, sort_keys=True)}")


def _default(variable: str) -> Any:
    return specs.of_role(specs.role_of(variable))[variable].get("default")
