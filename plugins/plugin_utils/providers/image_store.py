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

# containerd writes to its two databases in place; all other files are written once, so hard links are safe.
WRITTEN_IN_PLACE = (
    "io.containerd.metadata.v1.bolt/meta.db",
    "io.containerd.snapshotter.v1.overlayfs/metadata.db",
)

# Programs that filling a store needs on this host, with their Debian packages: it happens in a container.
HOST_PROGRAMS = {"podman": "podman", "runc": "runc", "conmon": "conmon"}

# Imports archives of images into a store's folder; the last argument is the store's name.
Fill = Callable[[Path, Sequence[Path], str], None]


def folder(cache: Path) -> Path:
    """Return the folder of all stores."""
    return cache / "image-stores"


def path(cache: Path, bundle_digest: str) -> Path:
    """Return the path of a bundle's store, whether it exists or not."""
    return folder(cache) / bundle_digest[:12]


def extended_path(cache: Path, bundle_digest: str, archive: Path) -> Path:
    """Return the path of a bundle's store that also has an archive's images; the archive's name implies its content."""
    return path(cache, hashlib.sha256(f"{bundle_digest} {archive.name}".encode()).hexdigest())


def ensure(bundle_digest: str, images: Sequence[Path], cache: Path, fill: Fill, progress: Progress) -> bool:
    """Fill the store of a bundle with its ``images`` unless it exists. Return whether it was missing."""

    def build(store: Path) -> None:
        progress(f"image store: unpack {len(images)} images once")
        store.mkdir(mode=0o700)
        fill(store, images, store.name)

    return build_once(path(cache, bundle_digest), build)


def extend(bundle_digest: str, archive: Path, cache: Path, fill: Fill, progress: Progress) -> bool:
    """Create a store with the bundle's images and those of ``archive`` unless it exists; the bundle's are shared."""

    def build(store: Path) -> None:
        progress("image store: unpack the snapshot's images once")
        copy(path(cache, bundle_digest), store)
        fill(store, [archive], store.name)

    return build_once(extended_path(cache, bundle_digest, archive), build)


def build_once(target: Path, build: Callable[[Path], None]) -> bool:
    """Create ``target`` unless it exists; return whether it was missing. ``build`` creates a file or folder of the same
    name in a temporary folder, which is then moved. Builds in one folder exclude each other.
    """
    if target.exists():
        return False
    parent = target.parent
    with files.exclusive(parent.with_name(f"{parent.name}.lock")):
        if target.exists():
            return False
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for unfinished in parent.glob(".building-*"):
            shutil.rmtree(unfinished)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".building-", ignore_cleanup_errors=True) as temporary:
            # mmdebstrap must be able to enter it as another user while it unpacks.
            os.chmod(temporary, 0o755)
            build(Path(temporary, target.name))
            os.replace(Path(temporary, target.name), target)
    return True


def copy(store: Path, target: Path) -> bool:
    """Create a node's own store at ``target``. Return False if links were impossible and the data were copied."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    linked = store.stat().st_dev == target.parent.stat().st_dev
    program.run(["cp", "--archive", *(["--link"] if linked else []), f"{store}/.", str(target)], timeout=600)
    for name in WRITTEN_IN_PLACE if linked else ():
        (target / name).unlink()
        shutil.copy2(store / name, target / name)
    return linked


def link_or_copy(source: Path, target: Path) -> None:
    """Link a file that nobody writes to; on another filesystem, copy it with its holes."""
    try:
        os.link(source, target)
    except OSError:
        program.run(["cp", "--sparse=always", "--preserve=mode", str(source), str(target)], timeout=600)
