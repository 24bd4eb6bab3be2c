"""Named extensions of the test plugin: built in, from entry points, and registered by a conftest.py.

A host plugin or cluster plugin, which a test uses as ``host.SshDirect`` or ``cluster.Kubectl`` (or by its lower-case
name), is a class that takes its host or cluster. It can have these methods: ``ping()`` raises if the plugin's target
does not answer, ``verify_functionality()`` if it does not work, ``reset_state()`` undoes what a test did with the
plugin, ``close()`` frees its resources. `devenv.testing.plugins.lifecycle` calls them.
"""

from __future__ import annotations

import importlib.metadata
import pkgutil
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, Generic, TypeVar

from devenv.testing.errors import ExtensionInvalid, PluginUnknown

T = TypeVar("T")
Plugin = Callable[[Any], Any]


@lru_cache
def installed(group: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    """Return the entry points of a group by name; cached, as it reads the metadata of every installed package."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=group)}


class Registry(Generic[T]):
    """Extensions of one kind by name. A registered one replaces an installed one, which replaces a built-in one.

    ``group``: of the entry points; ``built_in``: objects, or ``module:attribute`` to import on first use.
    """

    def __init__(self, group: str, built_in: Mapping[str, T | str], is_valid: Callable[[Any], bool] = callable) -> None:
        self._group = group
        self._built_in = built_in
        self._is_valid = is_valid
        self._registered: dict[str, T] = {}
        self._unchecked: set[str] = set()

    @property
    def group(self) -> str:
        return self._group

    def register(self, name: str, extension: T, *, replace: bool = True, checked: bool = True) -> None:
        """Register an extension; without ``replace``, only if none is registered. ``checked``: see `added`. Raises
        TypeError for a wrong type.
        """
        if not self._is_valid(extension):
            raise TypeError(f"{name}: {extension!r} has the wrong type for {self._group}")
        if replace or name not in self._registered:
            self._registered[name] = extension
            (self._unchecked.discard if checked else self._unchecked.add)(name)

    def names(self) -> list[str]:
        return sorted({*self._built_in, *installed(self._group), *self._registered})

    def added(self) -> list[str]:
        """Return the names of extensions that are not built in, without those that are not ``checked``."""
        return sorted({*installed(self._group), *self._registered} - self._unchecked)

    def spelled(self, name: str) -> str:
        """Return the name of the extension that ``name`` means: its own, or that in lower case. Empty for none."""
        names = self.names()
        return name if name in names else next((known for known in names if known.lower() == name), "")

    def get(self, name: str) -> T:
        """Return the extension ``name``. Raises KeyError; ExtensionInvalid for an entry point without one."""
        if name in self._registered:
            return self._registered[name]
        if entry := installed(self._group).get(name):
            try:
                extension: T = entry.load()
            except Exception as error:  # of the package's own code
                raise ExtensionInvalid(f"entry point {name} = {entry.value} of {self._group}: {error}") from error
            if not self._is_valid(extension):
                raise ExtensionInvalid(f"entry point {name} = {entry.value} of {self._group} has the wrong type")
            return extension
        known = self._built_in[name]
        return pkgutil.resolve_name(known) if isinstance(known, str) else known

    def all(self) -> dict[str, T]:
        return {name: self.get(name) for name in self.names()}


HOST: Registry[Plugin] = Registry(
    "devenv.host_plugins",
    {
        "Admin": "devenv.testing.plugins.admin:Admin",
        "Docker": "devenv.testing.plugins.docker:Docker",
        "DockerCompose": "devenv.testing.plugins.docker:DockerCompose",
        "Helm": "devenv.testing.plugins.helm:HostHelm",
        "Iptables": "devenv.testing.plugins.iptables:Iptables",
        "K8s": "devenv.testing.plugins.k8s:K8s",
        "Power": "devenv.testing.plugins.power:Power",
        "ProxyContainer": "devenv.testing.plugins.proxy:ProxyContainer",
        "SSH": "devenv.testing.plugins.proxy:SSH",
        "SshDirect": "devenv.testing.plugins.ssh:SshDirect",
        "TunnelManager": "devenv.testing.plugins.tunnels:TunnelManager",
    },
)
CLUSTER: Registry[Plugin] = Registry(
    "devenv.cluster_plugins",
    {
        "Gravity": "devenv.testing.plugins.gravity:Gravity",
        "Helm": "devenv.testing.plugins.helm:Helm",
        "K8SMaster": "devenv.testing.plugins.kubectl:K8SMaster",
        "Kubectl": "devenv.testing.plugins.kubectl:Kubectl",
        "ProxyDaemonSet": "devenv.testing.plugins.proxy:ProxyDaemonSet",
    },
)


def register_host_plugin(name: str, plugin: Plugin, *, checked: bool = True) -> None:
    """Make ``host.NAME``, and ``host.name`` unless a host has such an attribute, an instance of ``plugin``. Without
    ``checked``, its ``ping`` and ``verify_functionality`` are called only if it is in use.
    """
    HOST.register(_checked(name, HOST), plugin, checked=checked)


def register_cluster_plugin(name: str, plugin: Plugin, *, checked: bool = True) -> None:
    """Make ``cluster.NAME``, and ``cluster.name`` unless a cluster has such an attribute, an instance of ``plugin``;
    ``checked`` as for hosts.
    """
    CLUSTER.register(_checked(name, CLUSTER), plugin, checked=checked)


def _checked(name: str, registry: Registry[Plugin]) -> str:
    if not name.isidentifier() or not name[0].isupper():
        raise ValueError(f"'{name}' is not a valid plugin name; use an identifier that begins with a capital letter")
    if same := [known for known in registry.names() if known != name and known.lower() == name.lower()]:
        raise ValueError(f"'{name}' and the plugin '{same[0]}' have the same lower-case name; use another name")
    return name


class Plugins:
    """The plugins of one host or cluster, created on first use and kept until cleared; safe for several threads."""

    def __init__(self, owner: Any, registry: Registry[Plugin]) -> None:
        self._owner = owner
        self._registry = registry
        self._created: dict[str, Any] = {}
        self._lock = threading.RLock()

    def get(self, name: str) -> Any:
        """Return the plugin ``name``. Raises PluginUnknown, which is an AttributeError."""
        with self._lock:
            known = self._registry.spelled(name)
            if not known:
                kind, names = type(self._owner).__name__, ", ".join(self._registry.names())
                raise PluginUnknown(f"{kind} has no attribute or plugin '{name}'; its plugins: {names}")
            if known not in self._created:
                self._created[known] = self._registry.get(known)(self._owner)
            return self._created[known]

    def names(self) -> list[str]:
        """Return the names by which plugins can be used."""
        return [form for name in self._registry.names() for form in (name, name.lower())]

    def used(self) -> dict[str, Any]:
        """Return the plugins that were used, in the order of their first use."""
        with self._lock:
            return dict(self._created)

    def with_method(self, method: str, *, every: bool = False) -> list[str]:
        """Return the names of plugins that have ``method``: those in use, and those that the project has added, or with
        ``every`` all that exist; those with ``reset_first`` come first.
        """
        names = self._registry.names() if every else self._registry.added()
        candidates = {**{name: self._registry.get(name) for name in names}, **self.used()}
        having = [name for name, plugin in candidates.items() if callable(getattr(plugin, method, None))]
        return sorted(having, key=lambda name: not getattr(candidates[name], "reset_first", False))

    def clear(self) -> None:
        """Close the used plugins, the latest first, and forget them. An error does not keep the others open."""
        with self._lock:
            created, self._created = self._created, {}
        with ExitStack() as stack:
            for plugin in created.values():
                if callable(close := getattr(plugin, "close", None)):
                    stack.callback(close)
