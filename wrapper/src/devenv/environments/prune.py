"""Caches and logs that devenv keeps on this machine besides environments, and their removal. All can be rebuilt."""

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
from ansible_collections.devenv.lab.plugins.plugin_utils.host import limits
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import image_store, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import CachedFile, Provider

from devenv import errors
from devenv.environments import names


def kinds() -> tuple[str, ...]:
    """Return the kinds of items that can be removed."""
    cached = [kind for provider in registry.every() for kind in provider.traits["caches"]]
    return ("bundle", "toolchain", *cached, "image-store", *_engine_caches(), "history", "rest")


def items(selected: Iterable[str]) -> list[CachedFile]:
    """Return all items of the ``selected`` kinds, used or not."""
    finders: dict[str, Callable[[], list[CachedFile]]] = {
        "bundle": _bundles,
        "toolchain": lambda: _folders("toolchain", paths.cache() / "go"),
        "image-store": _stores,
        **{kind: partial(_engine_files, kind, *setting) for kind, setting in _engine_caches().items()},
        "history": lambda: _folders("history", paths.home() / "history"),
        "rest": lambda: [CachedFile("rest", str(path), store.size_of(path)) for path in store.leftovers()],
    }
    return [item for kind in selected for item in (finders[kind]() if kind in finders else _provider_files(kind))]


def remove(item: CachedFile) -> None:
    """Remove one item. Raises DevenvError, OSError or ProgramFailed."""
    if item.kind in ("bundle", "rest"):
        store.remove(Path(item.what))
    elif not item.what.startswith("/"):
        _provider(item.kind).remove_cached(item)
    elif Path(item.what).is_dir():
        shutil.rmtree(item.what)
    else:
        Path(item.what).unlink()


def host(*, dry_run: bool) -> list[str]:
    """Restore what `doctor --fix` has changed on this machine; return a line for each. Nodes may need the limits, so
    raises UsageError while there are some.
    """
    if dry_run:
        return [f"{name}: would be {old} again" for name, old in limits.recorded().items()]
    if limits.recorded() and (environments := sorted({machine.environment for machine in registry.machines()})):
        raise errors.UsageError(
            f"environments need the limits: {', '.join(environments)}", where="--host", advice="devenv down, then again"
        )
    return limits.restore()


def _provider(kind: str) -> Provider:
    return next(provider for provider in registry.every() if kind in provider.traits["caches"])


def _provider_files(kind: str) -> list[CachedFile]:
    """Return the cached files of the provider that has this kind; none if its programs do not answer."""
    try:
        return [item for item in _provider(kind).cached_files() if item.kind == kind]
    except (OSError, program.ProgramFailed):
        return []


def _folders(kind: str, base: Path) -> list[CachedFile]:
    """Return the directories in ``base``."""
    if not base.is_dir():
        return []
    return [CachedFile(kind, str(entry), store.size_of(entry)) for entry in sorted(base.iterdir()) if entry.is_dir()]


def _environments_by(key: Callable[[Mapping[str, Any]], str]) -> dict[str, str]:
    """Return the environments grouped by a key of the part ``kubernetes`` of their profiles, as lists of names."""
    grouped: dict[str, list[str]] = {}
    for name in names.known():
        profile = state.read_profile(paths.environment(name))
        grouped.setdefault(key(profile["kubernetes"] if profile else {}), []).append(name)
    return {value: ", ".join(users) for value, users in grouped.items()}


def _environments_by_version() -> dict[str, str]:
    return _environments_by(lambda kubernetes: str(kubernetes.get("version", "")))


def _engine_caches() -> dict[str, tuple[str, str]]:
    """Return the cache directories of engines, each with the engine and its key that names the entry in use."""
    return {kind: (name, key) for name in engines.names() for kind, key in engines.traits(name)["caches"].items()}


def _engine_files(kind: str, engine: str, key: str) -> list[CachedFile]:
    used = _environments_by(lambda kubernetes: str((kubernetes.get(engine) or {}).get(key, "")))
    entries = _folders(kind, paths.cache() / kind)
    return [replace(item, used=used.get(Path(item.what).name, "")) for item in entries]


def _bundles() -> list[CachedFile]:
    used = _environments_by_version()
    return [
        CachedFile("bundle", str(bundle.path), bundle.size, used.get(bundle.manifest.kubernetes, ""))
        for bundle in store.list_bundles()
    ]


def _stores() -> list[CachedFile]:
    used = _environments_by_version()
    users = {
        str(image_store.path(paths.cache(), bundle.digest)): used.get(bundle.manifest.kubernetes, "")
        for bundle in store.list_bundles()
    }
    entries = _folders("image-store", image_store.folder(paths.cache()))
    return [replace(item, used=users.get(item.what, "")) for item in entries]
