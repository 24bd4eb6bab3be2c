"""What devenv keeps on this machine besides environments, and removing it. All of it can be made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import image as node_image

from devenv.environments import names

KINDS = ("bundle", "toolchain", "node-image", "image-store", "virtual-machines", "gravity", "history", "rest")


@dataclass(frozen=True)
class Item:
    """One thing that could go. ``bytes`` is what it takes (images share layers: their sum may be less); ``used`` says
    by what.
    """

    kind: str
    what: str
    bytes: int
    used: str = ""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def items(kinds: Iterable[str] = KINDS) -> list[Item]:
    """Everything of these kinds, used or not."""
    finders: dict[str, Callable[[], list[Item]]] = {
        "bundle": _bundles,
        "toolchain": lambda: _folders("toolchain", paths.cache() / "go"),
        "node-image": _node_images,
        "image-store": _stores,
        # Nodes have links to them: those that go here are not missed.
        "virtual-machines": lambda: _entries("virtual-machines", paths.cache() / "virtual-machines"),
        "gravity": _tarballs,
        "history": lambda: _folders("history", paths.home() / "history"),
        "rest": lambda: [Item("rest", str(path), store.size_of(path)) for path in store.leftovers()],
    }
    return [item for kind in kinds for item in finders[kind]()]


def remove(item: Item) -> None:
    """Remove one item. Raises DevenvError, OSError or ProgramFailed."""
    if item.kind == "node-image":
        podman.podman("image", "rm", item.what)
    elif item.kind in ("bundle", "rest"):
        store.remove(Path(item.what))
    elif Path(item.what).is_dir():
        shutil.rmtree(item.what)
    else:
        Path(item.what).unlink()


def _folders(kind: str, base: Path) -> list[Item]:
    """The folders and files right in ``base``."""
    if not base.is_dir():
        return []
    return [Item(kind, str(entry), store.size_of(entry)) for entry in sorted(base.iterdir()) if entry.is_dir()]


def _entries(kind: str, base: Path) -> list[Item]:
    """Everything right in ``base``."""
    if not base.is_dir():
        return []
    return [Item(kind, str(entry), store.size_of(entry)) for entry in sorted(base.iterdir())]


def _environments_by(said: Callable[[Mapping[str, Any]], str]) -> dict[str, str]:
    """Environments by what ``said`` finds in the part ``kubernetes`` of their profiles."""
    found: dict[str, list[str]] = {}
    for name in names.known():
        profile = state.read_profile(paths.environment(name)) or {}
        found.setdefault(said(profile.get("kubernetes", {})), []).append(name)
    return {value: ", ".join(names) for value, names in found.items()}


def _environments_by_version() -> dict[str, str]:
    """For each Kubernetes version in use, the environments that have it."""
    return _environments_by(lambda kubernetes: str(kubernetes.get("version", "")))


def _tarballs() -> list[Item]:
    """What was taken out of Gravity tarballs: a folder by digest."""
    used = _environments_by(lambda kubernetes: str((kubernetes.get("gravity") or {}).get("sha256", "")))
    found = _folders("gravity", paths.cache() / "gravity")
    return [replace(item, used=used.get(Path(item.what).name, "")) for item in found]


def _bundles() -> list[Item]:
    used = _environments_by_version()
    return [
        Item("bundle", str(one.path), one.size, used.get(one.manifest.kubernetes, "")) for one in store.list_bundles()
    ]


def _stores() -> list[Item]:
    used = _environments_by_version()
    base = paths.cache() / "image-stores"
    wanted = {
        node_image.store_path(paths.cache(), one.digest): used.get(one.manifest.kubernetes, "")
        for one in store.list_bundles()
    }
    if not base.is_dir():
        return []
    return [
        Item("image-store", str(entry), store.size_of(entry), wanted.get(entry, ""))
        for entry in sorted(base.iterdir())
        if entry.is_dir()
    ]


def _node_images() -> list[Item]:
    try:
        rows = json.loads(podman.podman("images", "--format", "json") or "[]") or []
        users: dict[str, str] = {container.image: container.name for container in podman.containers()}
    except (OSError, program.ProgramFailed):
        return []
    ours = (node_image.REPOSITORY, node_image.ROOT_REPOSITORY)
    return [
        Item("node-image", name, int(row.get("Size") or 0), _user(users, name, row))
        for row in rows
        for name in row.get("Names") or []
        if name.rpartition(":")[0] in ours
    ]


def _user(users: Mapping[str, str], name: str, row: Mapping[str, Any]) -> str:
    return users.get(name) or users.get(str(row.get("Id"))) or ""
