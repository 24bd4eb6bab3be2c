"""What devenv keeps on this machine besides environments, and removing it. All of it can be made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import image_store, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import CachedFile, Provider

from devenv.environments import names

Item = CachedFile


def kinds() -> tuple[str, ...]:
    """Return the kinds of what can be removed."""
    cached = [kind for provider in registry.every() for kind in provider.traits["caches"]]
    return ("bundle", "toolchain", *cached, "image-store", *_engine_caches(), "history", "rest")


def items(wanted: Iterable[str] | None = None) -> list[Item]:
    """Return everything of the kinds ``wanted``, by default of all, used or not."""
    finders: dict[str, Callable[[], list[Item]]] = {
        "bundle": _bundles,
        "toolchain": lambda: _folders("toolchain", paths.cache() / "go"),
        "image-store": _stores,
        **{kind: partial(_by_setting, kind, *setting) for kind, setting in _engine_caches().items()},
        "history": lambda: _folders("history", paths.home() / "history"),
        "rest": lambda: [Item("rest", str(path), store.size_of(path)) for path in store.leftovers()],
    }
    return [item for kind in wanted or kinds() for item in (finders[kind]() if kind in finders else _cached(kind))]


def _cached(kind: str) -> list[Item]:
    """What the provider that has this kind keeps; nothing where its programs do not answer."""
    try:
        return [item for item in _provider(kind).cached_files() if item.kind == kind]
    except (OSError, program.ProgramFailed):
        return []


def _provider(kind: str) -> Provider:
    return next(provider for provider in registry.every() if kind in provider.traits["caches"])


def remove(item: Item) -> None:
    """Remove one item. Raises DevenvError, OSError or ProgramFailed."""
    if item.kind in ("bundle", "rest"):
        store.remove(Path(item.what))
    elif not item.what.startswith("/"):
        _provider(item.kind).remove_cached(item)
    elif Path(item.what).is_dir():
        shutil.rmtree(item.what)
    else:
        Path(item.what).unlink()


def _folders(kind: str, base: Path) -> list[Item]:
    """The folders and files right in ``base``."""
    if not base.is_dir():
        return []
    return [Item(kind, str(entry), store.size_of(entry)) for entry in sorted(base.iterdir()) if entry.is_dir()]


def _environments_by(said: Callable[[Mapping[str, Any]], str]) -> dict[str, str]:
    """Environments by what ``said`` finds in the part ``kubernetes`` of their profiles."""
    found: dict[str, list[str]] = {}
    for name in names.known():
        profile = state.read_profile(paths.environment(name))
        found.setdefault(said(profile["kubernetes"] if profile else {}), []).append(name)
    return {value: ", ".join(names) for value, names in found.items()}


def _environments_by_version() -> dict[str, str]:
    """For each Kubernetes version in use, the environments that have it."""
    return _environments_by(lambda kubernetes: str(kubernetes.get("version", "")))


def _engine_caches() -> dict[str, tuple[str, str]]:
    """Return folders of the cache that engines fill, each with the engine and its key that names the entry in use."""
    return {kind: (name, key) for name in engines.names() for kind, key in engines.traits(name)["caches"].items()}


def _by_setting(kind: str, engine: str, key: str) -> list[Item]:
    used = _environments_by(lambda kubernetes: str((kubernetes.get(engine) or {}).get(key, "")))
    found = _folders(kind, paths.cache() / kind)
    return [replace(item, used=used.get(Path(item.what).name, "")) for item in found]


def _bundles() -> list[Item]:
    used = _environments_by_version()
    return [
        Item("bundle", str(one.path), one.size, used.get(one.manifest.kubernetes, "")) for one in store.list_bundles()
    ]


def _stores() -> list[Item]:
    used = _environments_by_version()
    base = image_store.folder(paths.cache())
    wanted = {
        image_store.path(paths.cache(), one.digest): used.get(one.manifest.kubernetes, "")
        for one in store.list_bundles()
    }
    if not base.is_dir():
        return []
    return [
        Item("image-store", str(entry), store.size_of(entry), wanted.get(entry, ""))
        for entry in sorted(base.iterdir())
        if entry.is_dir()
    ]
