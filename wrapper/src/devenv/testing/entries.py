"""Entry points of other packages."""

from __future__ import annotations

import importlib.metadata
from functools import lru_cache


@lru_cache(maxsize=16)
def installed(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """Entry points of a group. Looking for them reads the metadata of every installed package, so it is done once."""
    return tuple(importlib.metadata.entry_points(group=group))
