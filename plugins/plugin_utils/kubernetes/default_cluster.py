"""The cluster of an environment that is meant where none is named."""

from __future__ import annotations

from collections.abc import Sequence

NAME = "main"


def of(clusters: Sequence[str]) -> str:
    """Return ``main`` if it is one of ``clusters``, else the only one; empty if there is none or no such one."""
    if NAME in clusters:
        return NAME
    return clusters[0] if len(clusters) == 1 else ""
