"""Find an allocator by its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from devenv.testing.allocators.base import Allocator

OURS = {
    "devenv": "devenv.testing.allocators.devenv:Devenv",
    "habertest": "devenv.testing.allocators.habertest:Habertest",
}


def load(word: str, settings: Mapping[str, Any]) -> Allocator:
    """Return the allocator ``word``, made with ``settings``: devenv, habertest or ``module:attribute``."""
    module, _, attribute = OURS.get(word, word).partition(":")
    made: Allocator = getattr(importlib.import_module(module), attribute)(**settings)
    return made
