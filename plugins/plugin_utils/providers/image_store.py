"""Image stores: containerd's folder with a bundle's images unpacked, filled once and given to nodes as hard links."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.node_recipe import Progress

# containerd writes to its two databases in place; all else in its folder is written once, so hard links are safe.
WRITTEN_IN_PLACE = (
    "io.containerd.metadata.v1.bolt/meta.db",
    "io.containerd.snapshotter.v1.overlayfs/metadata.db",
)

# What filling a store takes on this host, with Debian's packages: it happens in a container.
HOST_PROGRAMS = {"podman": "podman", "runc": "runc", "conmon": "conmon"}

# Imports archives of images into a store's folder; the last argument is the store's name.
Fill = Callable[[Path, Sequence[Path], str], None]


def folder(cache: Path) -> Path:
    """Where all stores are."""
    return cache / "image-stores"


def path(cache: Path, bundle_digest: str) -> Path:
    """Where the store of a bundle is, or will be."""
    return folder(cache) / bundle_digest[:12]


def extended_path(cache: Path, bundle_digest: str, archive: Path) -> Path:
    """Where the store of a bundle with the images of an archive is; the archive's name stands for its content."""
    return path(cache, hashlib.sha256(f"{bundle_digest} {archive.name}".encode()).hexdigest())


def ensure(bundle_digest: str, images: Sequence[Path], cache: Path, fill: Fill, progress: Progress) -> bool:
    """Make the store of a bundle of its ``images``, unless it exists. Return whether it was made."""
    return _ensure(path(cache, bundle_digest), None, images, cache, fill, f"unpack {len(images)} images once", progress)


def extend(bundle_digest: str, archive: Path, cache: Path, fill: Fill, progress: Progress) -> bool:
    """Make a store that shares the bundle's images and adds those of ``archive``, unless it exists."""
    base, store = path(cache, bundle_digest), extended_path(cache, bundle_digest, archive)
    return _ensure(store, base, [archive], cache, fill, "unpack the snapshot's images once", progress)


def _ensure(
    store: Path, base: Path | None, images: Sequence[Path], cache: Path, fill: Fill, text: str, progress: Progress
) -> bool:
    if store.is_dir():
        return False
    with files.exclusive(cache / "image-store.lock"):
        if store.is_dir():
            return False
        store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for unfinished in store.parent.glob(".filling-*"):
            shutil.rmtree(unfinished)
        progress(f"image store: {text}")
        filling = Path(tempfile.mkdtemp(dir=store.parent, prefix=".filling-"))
        if base is not None:
            copy(base, filling)
        fill(filling, images, store.name)
        os.replace(filling, store)
    return True


def copy(store: Path, target: Path) -> bool:
    """Give a node its own store at ``target``. Return False when links were not possible and the data were copied."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    linked = store.stat().st_dev == target.parent.stat().st_dev
    program.run(["cp", "--archive", *(["--link"] if linked else []), f"{store}/.", str(target)], timeout=600)
    for name in WRITTEN_IN_PLACE if linked else ():
        original, own = store / name, target / name
        own.unlink()
        shutil.copy2(original, own)
    return linked


def link_or_copy(source: Path, target: Path) -> None:
    """A file that nobody writes to: linked, or on another filesystem copied with its holes."""
    try:
        os.link(source, target)
    except OSError:
        program.run(["cp", "--sparse=always", str(source), str(target)], timeout=600)
