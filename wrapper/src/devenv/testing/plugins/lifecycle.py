"""The points of a test run at which the methods of plugins are called (docs/testing.md).

A plugin that raises NotAvailable does not apply to its host or cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from devenv.testing.errors import NotAvailable, PluginFailed, SeveralFailed

if TYPE_CHECKING:
    from devenv.testing.objects import BaseConfig, Cluster, Host


def check(base_config: BaseConfig, *, verify: bool) -> None:
    """Call ``ping``, with ``verify`` also ``verify_functionality``, of the plugins in use and of those that the project
    has added. Raises PluginFailed, which names all that failed.
    """
    __tracebackhide__ = True
    methods = ("ping", "verify_functionality") if verify else ("ping",)
    # Plugins of clusters may use those of their hosts.
    _raise([*_checked(base_config.hosts.values(), methods), *_checked(base_config.clusters.values(), methods)])


def _checked(owners: Iterable[Host | Cluster], methods: Sequence[str]) -> list[PluginFailed]:
    with ThreadPoolExecutor(8) as pool:
        return [
            failure for failures in pool.map(lambda owner: list(_check(owner, methods)), owners) for failure in failures
        ]


def _check(owner: Host | Cluster, methods: Sequence[str], *, every: bool = False) -> Iterator[PluginFailed]:
    excluded: set[str] = set()
    for method in methods:
        for name in owner.plugins.with_method(method, every=every):
            if name not in excluded:
                try:
                    getattr(owner.plugins.get(name), method)()
                except NotAvailable:
                    excluded.add(name)
                except Exception as error:
                    excluded.add(name)
                    yield PluginFailed(owner.name, name, method, error)


def reset(base_config: BaseConfig) -> None:
    """Call ``reset_state`` of the plugins that were used, the latest first and those of clusters before those of hosts.

    A plugin with ``reset_first = True``, such as Power, comes before all others, because they need its result. Raises
    PluginFailed after all others were called.
    """
    __tracebackhide__ = True
    owners = (*base_config.clusters.values(), *base_config.hosts.values())
    used = [(owner, *entry) for owner in owners for entry in reversed(owner.plugins.used().items())]
    failures = []
    for owner, name, plugin in sorted(used, key=lambda entry: not getattr(entry[2], "reset_first", False)):
        if callable(method := getattr(plugin, "reset_state", None)):
            try:
                method()
            except NotAvailable:
                continue
            except Exception as error:
                failures.append(PluginFailed(owner.name, name, "reset_state", error))
    _raise(failures)


def recover(base_config: BaseConfig) -> list[PluginFailed]:
    """Call ``reset_state`` of every plugin after a test whose process ended, with which its plugins are gone. Return
    what failed.
    """
    owners: list[Host | Cluster] = [*base_config.hosts.values(), *base_config.clusters.values()]
    return [failure for owner in owners for failure in _check(owner, ("reset_state",), every=True)]


def _raise(failures: Sequence[PluginFailed]) -> None:
    __tracebackhide__ = True
    if len(failures) > 1:
        raise SeveralFailed(failures) from failures[0]
    if failures:
        raise failures[0]
