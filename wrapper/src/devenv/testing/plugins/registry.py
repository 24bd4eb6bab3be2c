"""Host plugins and cluster plugins: what a test finds as ``host.SshDirect`` or ``cluster.Kubectl``.

A plugin is a class that takes the host or cluster it is for. These methods it may have: ``ping()`` raises when what it
speaks to does not answer, ``verify_functionality()`` when it does not work, ``reset_state()`` undoes what a test did
with it, ``close()`` ends what it holds open. Plugins come from us, from entry points (groups
``devenv.host_plugins`` and ``devenv.cluster_plugins``), and from the functions of this module.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from devenv.testing import entries
from devenv.testing.errors import PluginUnknown

Plugin = Callable[[Any], Any]


class Registry:
    """Plugins of one kind by name. ``built_in``: name -> ``module:attribute``, imported on first use."""

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._built_in = dict(built_in)
        self._registered: dict[str, Plugin] = {}

    def register(self, name: str, plugin: Plugin) -> None:
        """Make ``plugin`` known under ``name``, instead of one that is known by it."""
        if not name.isidentifier() or name.startswith("_") or name[0].islower():
            raise ValueError(f"{name} is no name for a {self.kind} plugin: an identifier that begins with a capital")
        self._registered[name] = plugin

    def get(self, name: str) -> Plugin:
        """The plugin ``name``. Raises PluginUnknown, which is an AttributeError."""
        if name in self._registered:
            return self._registered[name]
        for entry in entries.installed(self.group):
            if entry.name == name:
                return self._kept(name, entry.load())
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            return self._kept(name, getattr(importlib.import_module(module), attribute))
        raise PluginUnknown(f"no {self.kind} plugin is named {name}; there are {', '.join(self.names())}")

    def _kept(self, name: str, plugin: Plugin) -> Plugin:
        self._registered[name] = plugin
        return plugin

    def names(self) -> list[str]:
        """All names that `get` takes."""
        installed = (entry.name for entry in entries.installed(self.group))
        return sorted({*self._built_in, *self._registered, *installed})


HOST = Registry(
    "host",
    "devenv.host_plugins",
    {
        "Iptables": "devenv.testing.plugins.iptables:Iptables",
        "Power": "devenv.testing.plugins.power:Power",
        "SshDirect": "devenv.testing.plugins.ssh:SshDirect",
        "TunnelManager": "devenv.testing.plugins.tunnels:TunnelManager",
    },
)
CLUSTER = Registry(
    "cluster",
    "devenv.cluster_plugins",
    {
        "Gravity": "devenv.testing.plugins.gravity:Gravity",
        "K8SMaster": "devenv.testing.plugins.kubectl:K8SMaster",
        "Kubectl": "devenv.testing.plugins.kubectl:Kubectl",
    },
)


def register_host_plugin(name: str, plugin: Plugin) -> None:
    """Make ``host.NAME`` an instance of ``plugin``."""
    HOST.register(name, plugin)


def register_cluster_plugin(name: str, plugin: Plugin) -> None:
    """Make ``cluster.NAME`` an instance of ``plugin``."""
    CLUSTER.register(name, plugin)


class Plugins:
    """The plugins of one host or cluster: made when first asked for, then kept until cleared. For several threads."""

    def __init__(self, owner: Any, registry: Registry) -> None:
        self._owner = owner
        self._registry = registry
        self._made: dict[str, Any] = {}
        self._lock = threading.RLock()

    def get(self, name: str) -> Any:
        with self._lock:
            if name not in self._made:
                self._made[name] = self._registry.get(name)(self._owner)
            return self._made[name]

    def made(self) -> dict[str, Any]:
        with self._lock:
            return dict(self._made)

    def reset(self) -> None:
        """Call ``reset_state`` of those that were used and have it."""
        for plugin in reversed(list(self.made().values())):
            if callable(undo := getattr(plugin, "reset_state", None)):
                undo()

    def clear(self) -> None:
        """Forget all; each is closed first, also when another could not be."""
        with self._lock:
            made, self._made = self._made, {}
        errors = []
        for plugin in reversed(list(made.values())):
            if callable(close := getattr(plugin, "close", None)):
                try:
                    close()
                except Exception as error:  # the others shall be closed, too
                    errors.append(error)
        if errors:
            raise errors[0]
