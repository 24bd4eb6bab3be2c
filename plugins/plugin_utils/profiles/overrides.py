"""Overrides of a profile's keys by their paths, as a document to merge into the profile."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents

_WHERE = "--set"
# Extra variables that are short for an override, and its path.
SHORT = {
    "devenv_provider": "provider",
    "devenv_engine": "kubernetes.engine",
    "devenv_kubernetes_version": "kubernetes.version",
}


def of_variables(extra: Mapping[str, Any], *, stored: bool) -> dict[str, Any]:
    """Return the overrides in the extra variables ``devenv_overrides`` and SHORT. Raises DevenvError profile_invalid.

    ``stored``: they apply to the profile of an existing environment, whose version only an upgrade changes.
    """
    overrides = extra.get("devenv_overrides") or {}
    if not isinstance(overrides, dict):
        raise DevenvError("profile_invalid", "must be a mapping of paths to values", where="devenv_overrides")
    for variable, path in SHORT.items():
        value = str(extra.get(variable) or "")
        if not value or (stored and path == "kubernetes.version"):
            continue
        if str(overrides.get(path, value)) != value:
            message = f"{value} contradicts devenv_overrides, which sets {path} to {overrides[path]}"
            raise DevenvError("profile_invalid", message, where=variable)
        overrides = {**overrides, path: value}
    return overrides


def as_document(overrides: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``overrides`` as a valid document.

    Keys are paths of the schema (``nodes.worker-0.memory``; everything after ``labels`` or ``mirrors`` is one key, dots
    included). Values have the schema's type, or are text that YAML reads as that type, or mappings to merge.
    """
    documents.check_plain(dict(overrides), _WHERE)
    document: dict[str, Any] = {}
    for path, value in overrides.items():
        parts, rule = _split(path, schema)
        part: dict[str, Any] = {parts[-1]: _typed(value, rule)}
        for key in reversed(parts[:-1]):
            part = {key: part}
        document = data.merge(document, part)
    for key in ("extends", "apiVersion"):
        if key in document:
            raise DevenvError("profile_invalid", f"{key}: cannot be overridden; name another profile", where=_WHERE)
    documents.validate(document, schema, _WHERE)
    return document


def _split(path: str, schema: Mapping[str, Any]) -> tuple[list[str], Mapping[str, Any]]:
    """Return the keys of a dotted path, and the schema's rule for the last one.

    A path that the schema does not have is split too: validation then names the wrong key.
    """
    parts: list[str] = []
    rule: Mapping[str, Any] = schema
    remaining = path
    while remaining:
        free = rule.get("additionalProperties")
        # A freely named key may contain dots, unless it has keys of its own.
        if isinstance(free, dict) and "properties" not in free:
            parts.append(remaining)
            return parts, _deref(free, schema)
        key, remaining = remaining.partition(".")[::2]
        parts.append(key)
        rule = _deref(_below(rule, key), schema)
    if not parts or "" in parts:
        message = f"{json.dumps(path)} is not a valid path of a key, such as nodes.worker-0.memory"
        raise DevenvError("profile_invalid", message, where=_WHERE)
    return parts, rule


def _below(rule: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if key in rule.get("properties", {}):
        return dict(rule["properties"][key])
    for pattern, below in rule.get("patternProperties", {}).items():
        if re.search(pattern, key):
            return dict(below)
    free = rule.get("additionalProperties")
    return dict(free) if isinstance(free, dict) else {}


def _deref(rule: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in rule:
        rule = schema["$defs"][rule["$ref"].rpartition("/")[2]]
    return rule


def _typed(value: Any, rule: Mapping[str, Any]) -> Any:
    """Return text from a command line as the schema's type; any other value unchanged."""
    kinds = rule.get("type", [])
    if not isinstance(value, str) or not kinds or "string" in kinds:
        return value
    try:
        return documents.value(value)
    except (yaml.YAMLError, ValueError):
        return value
