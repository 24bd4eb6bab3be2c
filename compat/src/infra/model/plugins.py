"""Plugins of hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from devenv.testing import register_host_plugin


def register(name: str, plugin: Callable[[Any], Any]) -> None:
    """Make ``host.NAME`` an instance of ``plugin``, also on hosts to which it does not apply."""
    register_host_plugin(name, plugin, checked=False)
