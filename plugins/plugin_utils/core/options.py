"""Argument specifications from the documentation of modules, so that each option is declared once."""

from __future__ import annotations

import importlib
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import data

Spec = dict[str, dict[str, Any]]

_PLUGINS = "ansible_collections.devenv.lab.plugins"
# What Ansible validates; the other keys of a documented option are for readers.
_KEYS = ("type", "elements", "required", "default", "choices", "aliases")


def documented(module: str) -> Spec:
    """Return the options that a module of the collection documents, those of its documentation fragments included."""
    documentation = data.parse(importlib.import_module(f"{_PLUGINS}.modules.{module}").DOCUMENTATION)
    fragments = documentation.get("extends_documentation_fragment", [])
    options: Spec = {}
    for fragment in [fragments] if isinstance(fragments, str) else fragments:
        source = importlib.import_module(f"{_PLUGINS}.doc_fragments.{fragment.rpartition('.')[2]}")
        options |= data.parse(source.ModuleDocFragment.DOCUMENTATION).get("options", {})
    options |= documentation.get("options", {})
    return {name: {key: option[key] for key in _KEYS if key in option} for name, option in options.items()}
