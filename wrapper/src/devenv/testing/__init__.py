"""Clusters and hosts for tests: docs/testing.md, docs/installers.md.

``from devenv.testing import hardware_config`` says what a test needs; the fixture ``base_config`` gives it. Nothing
but the standard library is imported until a test asks for hardware.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from devenv.testing.installers.catalogue import Installer
    from devenv.testing.installers.catalogue import register as register_installer
    from devenv.testing.installers.images import BaseImage
    from devenv.testing.objects import BaseConfig, Cluster, Host
    from devenv.testing.plugins.registry import register_cluster_plugin, register_host_plugin
    from devenv.testing.plugins.ssh import on_all

__all__ = [
    "BaseConfig",
    "BaseImage",
    "Cluster",
    "Host",
    "Installer",
    "cluster",
    "hardware_config",
    "on_all",
    "register_cluster_plugin",
    "register_host_plugin",
    "register_installer",
]

# name -> module that has it, and its name there
_PLACES = {
    "BaseConfig": "objects",
    "BaseImage": "installers.images",
    "Cluster": "objects",
    "Host": "objects",
    "Installer": "installers.catalogue",
    "on_all": "plugins.ssh",
    "register_cluster_plugin": "plugins.registry",
    "register_host_plugin": "plugins.registry",
    "register_installer": "installers.catalogue:register",
}


def hardware_config(
    hardware: Mapping[str, Any] | None = None,
    grouping: Mapping[str, Any] | None = None,
    *,
    scope: str | None = None,
    timeout: float | None = None,
) -> pytest.MarkDecorator:
    """A decorator for functions and classes, and a value for a module's ``pytestmark``.

    ``hardware``: host name -> its keys, or one `cluster`; ``grouping``: cluster name -> ``{"hosts": [...]}`` or a
    `cluster`. ``scope``: function, module or session, how far the environment is shared; ``timeout``: seconds that one
    test may take. The closest marker counts. What is wrong is said when tests are collected.
    """
    import pytest

    said: dict[str, Any] = {"hardware": hardware, "grouping": grouping, "scope": scope, "timeout": timeout}
    # A copy: nothing that happens to the caller's dictionaries later changes what a test asks for.
    given = {key: copy.deepcopy(value) for key, value in said.items() if value is not None}
    marker: pytest.MarkDecorator = pytest.mark.hardware_config(**given)
    return marker


def cluster(template: str, hosts: Sequence[str] | None = None, **keys: Any) -> dict[str, Any]:
    """A cluster of the shape of a topology, such as ``cluster("hq-ha")``; ``hosts`` names its nodes, masters first."""
    return {"template": template, **({"hosts": list(hosts)} if hosts is not None else {}), **keys}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(name)
    import importlib

    module, _, own = _PLACES[name].partition(":")
    return getattr(importlib.import_module(f"devenv.testing.{module}"), own or name)
