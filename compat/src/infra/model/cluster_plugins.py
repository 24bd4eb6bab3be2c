"""Plugins of clusters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from devenv.testing import register_cluster_plugin


def register(name: str, plugin: Callable[[Any], Any]) -> None:
    """Make ``cluster.NAME`` an instance of ``plugin``, also on clusters to which it does not apply."""
    register_cluster_plugin(name, plugin, checked=False)
