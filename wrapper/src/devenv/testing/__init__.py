"""Clusters and hosts for tests: docs/testing.md, docs/installers.md.

The decorator ``hardware_config`` states what a test needs; the fixture ``base_config`` supplies it. Only the standard
library is imported until a test requests hardware.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from devenv.testing.installers.catalogue import Installer, register_installer
    from devenv.testing.installers.machines import (
        BaseImage,
        HardwareType,
        register_base_image,
        register_hardware_type,
    )
    from devenv.testing.objects import BaseConfig, Cluster, Host
    from devenv.testing.plugins.ssh import on_all
    from devenv.testing.registry import register_cluster_plugin, register_host_plugin

__all__ = [
    "BaseConfig",
    "BaseImage",
    "Cluster",
    "HardwareType",
    "Host",
    "Installer",
    "cluster",
    "hardware_config",
    "on_all",
    "register_base_image",
    "register_cluster_plugin",
    "register_hardware_type",
    "register_host_plugin",
    "register_installer",
]

MARK = "hardware_config"
# Name of the pytest plugin of runs with hardware.
SESSION = "devenv-session"

_MODULES = ("registry", "installers.catalogue", "installers.machines", "objects", "plugins.ssh")


def hardware_config(
    hardware: Mapping[str, Any] | None = None,
    grouping: Mapping[str, Any] | None = None,
    *,
    scope: str | None = None,
    timeout: float | None = None,
) -> pytest.MarkDecorator:
    """Return a decorator for functions and classes, which is also a value for a module's ``pytestmark``.

    ``hardware``: host name to its keys, or one `cluster`; ``grouping``: cluster name to ``{"hosts": [...]}`` or a
    `cluster`. ``scope``: function, module or session, the scope in which the environment is shared; ``timeout``:
    seconds for one test. The closest marker counts. Mistakes are reported when tests are collected.
    """
    import pytest

    arguments: dict[str, Any] = {"hardware": hardware, "grouping": grouping, "scope": scope, "timeout": timeout}
    # A copy, so that later changes to the caller's dictionaries do not change what a test requests.
    given = {key: copy.deepcopy(value) for key, value in arguments.items() if value is not None}
    marker: pytest.MarkDecorator = pytest.mark.hardware_config(**given)
    return marker


def cluster(template: str, hosts: Sequence[str] | None = None, **keys: Any) -> dict[str, Any]:
    """Return a cluster with the nodes of a topology: ``cluster("hq-ha")``; ``hosts`` names them, masters first."""
    return {"template": template, **({"hosts": list(hosts)} if hosts is not None else {}), **keys}


def __getattr__(name: str) -> Any:
    if name in __all__:
        import importlib

        for module in _MODULES:
            if extension := getattr(importlib.import_module(f"devenv.testing.{module}"), name, None):
                return extension
    raise AttributeError(name)
