"""Refuse extra variables that no role or playbook has, and values of the wrong type.

The playbooks call roles without Ansible's own validation, which takes as long as an action per call; and Ansible
ignores a variable that nothing reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.document import nearest
from ansible_collections.devenv.lab.plugins.plugin_utils.variables import specs
from ansible_collections.devenv.lab.plugins.plugin_utils.variables.specs import Spec

_WORDS = {"yes", "no", "on", "off", "true", "false", "y", "n", "t", "f", "1", "0"}
_WHOLE = r"[-+]?(0|[1-9][0-9]*)"
_TEMPLATE = re.compile(r"\{\{|\{%")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool) and bool(re.fullmatch(_WHOLE, str(value)))


def _is_number(value: Any) -> bool:
    text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    return re.fullmatch(rf"{_WHOLE}(\.[0-9]+)?([eE][-+]?[0-9]+)?", text) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int | float)


# Type in argument_specs: how a message calls it, and whether a value is of it. Text is converted as Ansible does.
_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", _is_whole),
    "float": ("a number", _is_number),
    "bool": ("true or false", lambda value: isinstance(value, bool) or str(value).lower() in _WORDS),
    "list": ("a list", lambda value: isinstance(value, list | str)),
    "dict": ("a mapping, as JSON or YAML", lambda value: isinstance(value, dict)),
    "str": ("text", _is_text),
    "path": ("a path", _is_text),
    "raw": ("any value", lambda value: True),
}


def require(given: Mapping[str, Any]) -> None:
    """Raise DevenvError variable_unknown or variable_invalid for the first extra variable that cannot take effect.

    Variables without the prefix of a role or of devenv are the user's own.
    """
    for name, value in given.items():
        known = specs.siblings(name)
        if known is None:
            continue
        if name not in known:
            near = nearest(name, known)
            hint = f" (meant {near}?)" if near else ""
            owner = specs.role_of(name)
            whose = f"the role {owner} has no such variable" if owner else "no playbook has such a variable"
            raise DevenvError("variable_unknown", f"{whose}{hint}", where=f"-e {name}")
        message = _problem(value, known[name])
        if message:
            raise DevenvError("variable_invalid", message, where=f"-e {name}")


def require_roles(given: Mapping[str, Any], common: Mapping[str, Any]) -> None:
    """Raise DevenvError variable_unknown for a variable of a provider or engine that the environment does not have.

    ``common`` are the variables of all hosts of the inventory.
    """
    for kind in ("provider", "engine"):
        chosen = common.get(f"{specs.PREFIX}{kind}")
        for name in given:
            role = specs.role_of(name)
            if chosen and role.startswith(f"{kind}_") and role != f"{kind}_{chosen}":
                message = f"has no effect: the {kind} of this environment is {chosen}"
                raise DevenvError("variable_unknown", message, where=f"-e {name}")


def _problem(value: Any, spec: Spec) -> str:
    """Return what is wrong with a value, or an empty string."""
    written = data.not_plain(value)
    if written:
        return f"{written} is not a plain number; write it in decimal, or in quotes if it is text"
    if isinstance(value, str) and _TEMPLATE.search(value):
        return ""
    kind = spec.get("type", "str")
    title, matches = _TYPES[kind]
    if not matches(value):
        # key=value, the usual form of -e, loses the quotes of JSON.
        text = ", and NAME=VALUE is always text" if kind == "dict" and isinstance(value, str) else ""
        return f"must be {title}{_is(value, spec)}{text}"
    choices = spec.get("choices")
    if choices and str(value) not in map(str, choices):
        return f"must be one of {', '.join(map(str, choices))}{_is(value, spec)}"
    elements = spec.get("elements")
    if elements and isinstance(value, list):
        wrong = [item for item in value if _problem(item, {"type": elements})]
        return f"each item must be {_TYPES[elements][0]}{_is(wrong[0], spec)}" if wrong else ""
    return ""


def _is(value: Any, spec: Spec) -> str:
    # A value may be secret.
    return "" if spec.get("no_log") or len(str(value)) > 60 else f", is {json.dumps(value, default=str)}"


# --- numbers as written ---------------------------------------------------------------------------------------------


class _Loader(data.PlainLoader):
    """Reads the tags of Ansible, such as ``!vault``, as nothing."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def require_options(given: Mapping[str, Any], options: Iterable[str]) -> None:
    """Check ``given`` as `require` does, with the numbers as they are written in ``options``, the values of ``-e``."""
    require({**given, **as_written(options)})


def as_written(options: Iterable[str]) -> dict[str, Any]:
    """Return the variables in ``options`` (values of ``-e``) with a number that is not plain, as they are written:
    Ansible has already converted them.
    """
    found: dict[str, Any] = {}
    for option in options:
        text = option.strip()
        if not text.startswith(("@", "{", "[")):
            continue
        try:
            content = yaml.load(Path(text[1:]).expanduser().read_text() if text[0] == "@" else text, Loader=_Loader)
        except (yaml.YAMLError, ValueError, OSError):
            continue  # Ansible reports it
        if isinstance(content, dict):
            found.update(content)
    return {str(name): value for name, value in found.items() if data.not_plain(value)}
