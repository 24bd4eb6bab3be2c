"""Bundles on disk, in `<cache>/bundle/<kubernetes version>-<digest of inputs>/`: find, verify, build, remove.

A folder without a leading dot is complete: it was renamed into place as the last step. `.build-*` are unfinished
builds; `.lock` serializes builds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import manifest as manifests
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions as versions_of
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import Manifest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

Progress = Callable[[str], None]
# Sources that build a bundle instead of copying one.
MAKERS = ("release", "modules")
_BUILD = ".build-"


def silent(_text: str) -> None:
    """Discard progress."""


@dataclass(frozen=True)
class Bundle:
    """A complete bundle in the folder ``path``."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def digest(self) -> str:
        """sha256 (hex) of the base; the same for every build that produced the same files."""
        return self.manifest.digest

    def lacks(self, parts: Iterable[str]) -> list[str]:
        """Return those of the optional ``parts`` that the bundle does not have."""
        return sorted(set(parts) - self.manifest.parts)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.manifest.files)

    def bin(self, name: str) -> Path:
        """Return the path of a binary. Raises DevenvError ``bundle_broken`` if the bundle does not have it."""
        path = f"bin/{name}"
        if all(file.path != path for file in self.manifest.files):
            raise DevenvError("bundle_broken", f"has no {path}", where=str(self.path))
        return self.path / path

    def images(self, *parts: str) -> list[Path]:
        """Return the image archives of ``parts`` (default: of the base) for `ctr images import` and `podman load`."""
        return [self.path / image.path for image in self.manifest.images_of(parts or ("",))]


def root(cache_dir: Path | None = None) -> Path:
    """Return the folder of all bundles."""
    return (cache_dir or paths.cache()) / "bundle"


def folder_names(versions: Versions, makers: Sequence[str] = MAKERS) -> list[str]:
    """Return the folder names of the bundles that this version of devenv builds on this machine."""
    arch = versions_of.architecture()
    return [f"{versions.kubernetes}-{versions_of.inputs(versions, maker, arch)}" for maker in makers]


def find(version: str | None = None, cache_dir: Path | None = None, makers: Sequence[str] = MAKERS) -> Bundle | None:
    """Return the newest bundle in the cache that this version of devenv builds for Kubernetes ``version``, or None.

    ``makers`` are the accepted sources. Reads the manifest and compares the sizes of all files, but no digests. Raises
    DevenvError ``bundle_version_unknown``.
    """
    names = folder_names(versions_of.resolve(version), makers)
    bundles = [bundle for name in names if (bundle := whole(root(cache_dir) / name))]
    return max(bundles, key=lambda bundle: bundle.manifest.created, default=None)


def require(version: str) -> Bundle:
    """Return the result of `find`. Raises DevenvError ``bundle_missing`` if it is None."""
    bundle = find(version)
    if bundle is None:
        raise DevenvError("bundle_missing", f"Kubernetes {version} has no bundle on this machine")
    return bundle


def list_bundles(cache_dir: Path | None = None) -> list[Bundle]:
    """Return all complete bundles in the cache, the newest first; `leftovers` returns the other folders."""
    bundles = [bundle for folder in root(cache_dir).glob("[!.]*") if (bundle := whole(folder))]
    return sorted(bundles, key=lambda bundle: (bundle.manifest.created, bundle.name), reverse=True)


def leftovers(cache_dir: Path | None = None) -> list[Path]:
    """Return everything else in the folder of bundles: aborted builds, broken bundles, unfinished downloads."""
    complete = {bundle.path for bundle in list_bundles(cache_dir)}
    return sorted(path for path in root(cache_dir).glob("*") if path not in complete and path.name != ".lock")


def verify(bundle: Bundle) -> list[str]:
    """Hash every file; return one line for each that is missing, differs or is not in the manifest."""
    problems = []
    listed = {file.path: file for file in bundle.manifest.files}
    for path, entry in sorted(listed.items()):
        file = bundle.path / path
        if file.is_symlink() or not file.is_file():
            problems.append(f"{path}: missing")
        elif file.stat().st_size != entry.size:
            problems.append(f"{path}: {file.stat().st_size} bytes instead of {entry.size}")
        elif manifests.sha256(file) != entry.sha256:
            problems.append(f"{path}: sha256 differs")
    present = {str(file.relative_to(bundle.path)) for file in bundle.path.rglob("*") if not file.is_dir()}
    problems += [f"{path}: not in the manifest" for path in sorted(present - set(listed) - {manifests.NAME})]
    return problems


def remove(bundle: Bundle | Path, progress: Progress = silent) -> int:
    """Remove a bundle or a path of `leftovers`, after any build in progress; return the freed bytes."""
    path = bundle.path if isinstance(bundle, Bundle) else bundle
    with locked(path.parent, progress):
        freed = size_of(path)
        _discard(path)
    return freed


def size_of(path: Path) -> int:
    """Return the bytes of all files at and below ``path``, without the holes of sparse ones."""
    files = (file for file in (path, *path.rglob("*")) if file.is_symlink() or not file.is_dir())
    return sum(min(status.st_size, status.st_blocks * 512) for status in (file.lstat() for file in files))


@contextlib.contextmanager
def locked(base: Path, progress: Progress = silent) -> Iterator[None]:
    """Hold the lock of the folder of bundles; the kernel releases it when the process ends for any reason."""
    with disk_errors(base):
        base.mkdir(parents=True, exist_ok=True)
        lock = (base / ".lock").open("ab+", buffering=0)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read(32).decode(errors="replace").strip() or "unknown"
            progress(f"waiting for process {holder}, which builds a bundle in {base}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        with disk_errors(base):
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n".encode())
        yield


@contextlib.contextmanager
def building(base: Path) -> Iterator[Path]:
    """Yield a new empty folder to build a bundle in; remove it at the end, whatever happens.

    Removes the folders of killed builds first. The caller holds the lock.
    """
    with disk_errors(base):
        for old in base.glob(f"{_BUILD}*"):
            _discard(old)
        temp = Path(tempfile.mkdtemp(prefix=_BUILD, dir=base))
    try:
        with disk_errors(base):
            yield temp
    finally:
        _discard(temp)


def publish(temp: Path, base: Path, manifest: Manifest) -> Bundle:
    """Write the manifest and move the finished folder into place; replaces a broken bundle of the same name."""
    (temp / manifests.NAME).write_text(manifest.dump(), encoding="utf-8")
    temp.chmod(0o755)
    target = base / manifest.folder
    if target.exists() or target.is_symlink():
        # Renamed first, so that no reader sees a half removed folder of this name.
        old = Path(tempfile.mkdtemp(prefix=_BUILD, dir=base))
        target.rename(old / "old")
        temp.rename(target)
        _discard(old)
    else:
        temp.rename(target)
    return Bundle(target, manifest)


def grow(bundle: Bundle, temp: Path, added: Manifest) -> Bundle:
    """Add the files and images of ``added``, which are in ``temp``, to ``bundle``. The caller holds the lock.

    The manifest changes last, so the bundle is complete at every moment.
    """
    paths = {file.path for file in added.files}
    for path in paths:
        target = bundle.path / path
        target.parent.mkdir(exist_ok=True)
        (temp / path).replace(target)
    old = bundle.manifest
    files = [*(file for file in old.files if file.path not in paths), *added.files]
    manifest = replace(
        old,
        files=tuple(sorted(files, key=lambda file: file.path)),
        images=tuple(sorted({*old.images, *added.images}, key=lambda image: image.name)),
        packages={**old.packages, **added.packages},
    )
    (temp / manifests.NAME).write_text(manifest.dump(), encoding="utf-8")
    (temp / manifests.NAME).replace(bundle.path / manifests.NAME)
    return Bundle(bundle.path, manifest)


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn errors of the filesystem into DevenvError ``bundle_disk_full`` or ``bundle_unwritable``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DevenvError("bundle_disk_full", "no space left on the disk", where=str(where)) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            path = error.filename or where
            raise DevenvError("bundle_unwritable", f"cannot be written: {error.strerror}", where=str(path)) from None
        raise


def whole(folder: Path) -> Bundle | None:
    """Return the bundle in ``folder`` if its manifest is valid and every file has its size."""
    try:
        manifest = manifests.load(folder)
        sizes = all((folder / file.path).stat().st_size == file.size for file in manifest.files)
    except (DevenvError, OSError):
        return None
    return Bundle(folder, manifest) if sizes and manifest.folder == folder.name else None


def _discard(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
