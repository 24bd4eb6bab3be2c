"""The base images of a home: named variants of the node image, ``<home>/base-images/<name>/`` (mode 0700).

Such a folder has ``image.json``, the content of files in ``files/<path on the node>``, and ``rootfs.tar`` if the image
starts from one. The images themselves belong to the provider, which builds them again when they are missing.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import CachedFile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.node_recipe import Recipe, derived

KEY = "nodes.*.base_image"
DESCRIPTION = "image.json"
ROOTFS = "rootfs.tar"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Without characters that shells and Containerfiles interpret.
_TARGET = re.compile(r"(/[\w.@%+=,~-]+)+")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?([=/][A-Za-z0-9.+:~-]+)?")
# Paths that a container does not have from its image.
_HIDDEN = (
    "/dev", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/proc", "/run", "/sys", "/tmp", "/var/lock", "/var/run",
)  # fmt: skip


@dataclass(frozen=True)
class BaseImage:
    """A base image. ``files`` maps a path on the node to a file here; ``rootfs`` is the archive that the image starts
    from instead of Debian packages; ``digest`` identifies all content, ``made`` is UTC (ISO 8601).
    """

    name: str
    packages: Sequence[str]
    files: Mapping[str, Path]
    rootfs: Path | None
    digest: str
    made: str


def folder_of(home: Path) -> Path:
    """Return the folder with all base images of a home."""
    return home / "base-images"


def names(home: Path) -> list[str]:
    """Return the names of the base images, sorted."""
    return sorted(path.parent.name for path in folder_of(home).glob(f"[!.]*/{DESCRIPTION}"))


def read(home: Path, name: str) -> BaseImage:
    """Return the base image ``name``. Raises DevenvError ``base_image_unknown`` (with the nearest name)."""
    known = names(home)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, 1)
        hint = f"; the nearest is {nearest[0]}" if nearest else ""
        raise DevenvError("base_image_unknown", f"base image {name} does not exist{hint}")
    return _read(folder_of(home) / name, name)


def _read(folder: Path, name: str) -> BaseImage:
    described: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text())
    content = {target: folder / "files" / target.lstrip("/") for target in described["files"]}
    rootfs = folder / ROOTFS if described["rootfs"] else None
    return BaseImage(name, described["packages"], content, rootfs, described["digest"], described["made"])


@contextlib.contextmanager
def staged(
    home: Path,
    name: str,
    packages: Sequence[str],
    sources: Mapping[str, Path],
    rootfs: Path | None,
    *,
    keep: bool = True,
) -> Iterator[BaseImage]:
    """Copy the content of a new base image; after the block, which builds it, it replaces the one of the same name.

    An error in the block leaves that one unchanged, and so does ``keep=False``. Raises DevenvError
    ``base_image_invalid``.
    """
    check(name, packages, sources, rootfs)
    parent = folder_of(home)
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with files.exclusive(parent.with_name(f"{parent.name}.lock")):
        for unfinished in parent.glob(".building-*"):
            shutil.rmtree(unfinished)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".building-", ignore_cleanup_errors=True) as temporary:
            folder = Path(temporary, name)
            _copy(folder, packages, sources, rootfs)
            yield _read(folder, name)
            if not keep:
                return
            if (parent / name).exists():
                (parent / name).replace(Path(temporary, "former"))
            folder.replace(parent / name)


def _copy(folder: Path, packages: Sequence[str], sources: Mapping[str, Path], rootfs: Path | None) -> None:
    folder.mkdir(mode=0o700)
    for target, source in sources.items():
        copy = folder / "files" / target.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        copy.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    if rootfs:
        program.run(["cp", "--sparse=always", "--reflink=auto", str(rootfs), str(folder / ROOTFS)], timeout=900)
    described = {
        "packages": sorted(set(packages)),
        "files": sorted(sources),
        "rootfs": bool(rootfs),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    files.write(folder / DESCRIPTION, json.dumps({**described, "digest": _digest(folder, described)}, indent=2))


def _digest(folder: Path, described: Mapping[str, Any]) -> str:
    """Return a digest of everything that goes into the image."""
    digest = hashlib.sha256(json.dumps([described["packages"], described["files"]]).encode())
    for path in [*(folder / "files" / target.lstrip("/") for target in described["files"]), folder / ROOTFS]:
        if path.is_file():
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{content} {os.access(path, os.X_OK)}\0".encode())
    return digest.hexdigest()[:12]


def check(name: str, packages: Sequence[str], sources: Mapping[str, Path], rootfs: Path | None) -> None:
    """Raise DevenvError ``base_image_invalid`` for a name or content that a base image cannot have."""

    def refuse(text: str) -> None:
        raise DevenvError("base_image_invalid", text, where=name)

    if not _NAME.fullmatch(name):
        refuse("the name may have letters, digits, dots, - and _, a letter or digit first")
    if not (packages or sources or rootfs):
        refuse("has no packages, no files and no rootfs, so it is the node image itself")
    if packages and rootfs:
        refuse("a rootfs has its packages already: give one of both")
    for package in packages:
        if not _PACKAGE.fullmatch(package):
            refuse(f"{package!r} is not the name of a Debian package")
    for target, source in sources.items():
        path = PurePosixPath(target)
        if not _TARGET.fullmatch(target) or str(path) != target or ".." in path.parts:
            refuse(f"{target!r} is not an absolute path on the node of letters, digits and _.@%+=,~-")
        if outer := next((str(parent) for parent in path.parents if str(parent) in sources), None):
            refuse(f"{target}: {outer} is a file, too")
        if hidden := next((place for place in _HIDDEN if f"{target}/".startswith(f"{place}/")), None):
            refuse(f"{target}: nodes do not have {hidden} from their image")
        if not source.is_file():
            refuse(f"{source} is not a file")
    if rootfs and not rootfs.is_file():
        refuse(f"{rootfs} is not a file")


def recipe_of(image: BaseImage, node: Recipe) -> Recipe:
    """Return the recipe of the image, based on that of a ``node``. Raises DevenvError ``base_image_invalid`` for a file
    that every node has from devenv.
    """
    if own := sorted(set(image.files) & set(node.files)):
        raise DevenvError("base_image_invalid", f"{', '.join(own)}: every node has devenv's own", where=image.name)
    return derived(node, image.packages, image.files, image.rootfs, image.digest)


# --- use -------------------------------------------------------------------------------------------------------------


def provider() -> base.Provider:
    """Return the provider whose nodes can have base images."""
    return registry.get(
        next(name for name in provider_traits.names() if provider_traits.traits(name).get("keys", {})[KEY] == "used")
    )


def users(home: Path, name: str) -> list[str]:
    """Return the environments of a home with a node of the base image."""
    found = []
    for environment in state.environments(home):
        profile = state.read_profile(home / "environments" / environment)
        if profile and any(node.get("base_image") == name for node in profile["nodes"]):
            found.append(environment)
    return found


def rows(home: Path) -> list[dict[str, Any]]:
    """Return a row for each base image: its content, images that the provider has built from it, and its users."""
    found = []
    for name in names(home):
        image = read(home, name)
        built = provider().variants(image.digest)
        found.append(
            {
                "name": name,
                "digest": image.digest,
                "made": image.made,
                "packages": list(image.packages),
                "files": sorted(image.files),
                "rootfs": image.rootfs is not None,
                "images": [item.what for item in built],
                "bytes": max((item.bytes for item in built), default=0),
                "environments": users(home, name),
            }
        )
    return found


def removable(home: Path, name: str) -> list[CachedFile]:
    """Return the images that nothing needs after the removal of the base image.

    Raises DevenvError ``base_image_unknown``, and ``base_image_used`` if an environment uses it.
    """
    image = read(home, name)
    if using := users(home, name):
        raise DevenvError("base_image_used", f"base image {name} is used by {', '.join(using)}")
    others = {read(home, other).digest for other in names(home) if other != name}
    built = [] if image.digest in others else provider().variants(image.digest)
    # An environment of another home can use the same images.
    return [] if any(item.used for item in built) else built


def remove(home: Path, name: str) -> list[str]:
    """Remove the base image and the images built from it; return the names of those images. Raises as `removable`."""
    unused = removable(home, name)
    for item in unused:
        provider().remove_cached(item)
    shutil.rmtree(folder_of(home) / name)
    return [item.what for item in unused]
