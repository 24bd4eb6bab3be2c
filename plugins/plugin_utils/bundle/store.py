"""Bundles on disk: `<cache>/bundle/<kubernetes version>-<digest of inputs>/`. Found, checked, made atomically, removed.

A folder without a leading dot is complete: it was renamed into place as the last step. `.build-*` are unfinished
builds, `.lock` makes two builds wait for each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import manifest as manifests
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions as versions_of
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import Manifest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

Progress = Callable[[str], None]
# Ways to make a bundle.
MAKERS = ("release", "modules")
_BUILD = ".build-"


def silent(_text: str) -> None:
    """A progress that says nothing."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that stands in ``path``."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def digest(self) -> str:
        """sha256 (hex) of what every bundle holds; stable over rebuilds that gave the same files."""
        return self.manifest.digest

    def lacks(self, parts: Iterable[str]) -> list[str]:
        """Those of the optional ``parts`` that the bundle does not have."""
        return sorted(set(parts) - self.manifest.parts)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(one.size for one in self.manifest.files)

    def bin(self, name: str) -> Path:
        """A program by name. Raises DevenvError ``bundle_broken`` when the bundle has none of this name."""
        return self._file(f"bin/{name}")

    def cni(self) -> list[Path]:
        """The CNI plugins."""
        return [self.path / one.path for one in self.manifest.files if one.path.startswith("cni/")]

    def images(self, *parts: str) -> list[Path]:
        """Archives of the images of ``parts``, by default of what every bundle has, as `ctr images import` and
        `podman load` take them.
        """
        return [self.path / image.path for image in self.manifest.images_of(parts or ("",))]

    def image(self, name: str) -> Path:
        """Archive of the image with the full name ``name``. Raises DevenvError ``bundle_broken``."""
        for one in self.manifest.images:
            if one.name == name:
                return self.path / one.path
        raise DevenvError("bundle_broken", f"has no image {name}", where=str(self.path))

    def _file(self, path: str) -> Path:
        if all(one.path != path for one in self.manifest.files):
            raise DevenvError("bundle_broken", f"has no {path}", where=str(self.path))
        return self.path / path


def root(cache_dir: Path | None = None) -> Path:
    """Folder of all bundles."""
    return (cache_dir or paths.cache()) / "bundle"


def find(version: str | None = None, cache_dir: Path | None = None, makers: Sequence[str] = MAKERS) -> Bundle | None:
    """The bundle in the cache that this version of devenv would make for Kubernetes ``version``, or None.

    Of several (``makers`` are the sources that may have made it) the newest counts. Reads the manifest and looks at the
    sizes of all files; hashes nothing.
    Raises DevenvError ``bundle_version_unknown``.
    """
    wanted = versions_of.wanted(version)
    arch = versions_of.architecture()
    names = [f"{wanted.kubernetes}-{versions_of.inputs(wanted, source, arch)}" for source in makers]
    found = [bundle for name in names if (bundle := whole(root(cache_dir) / name))]
    return max(found, key=lambda one: one.manifest.created, default=None)


def require(version: str) -> Bundle:
    """As `find`; raises DevenvError ``bundle_missing`` when there is none."""
    bundle = find(version)
    if bundle is None:
        raise DevenvError("bundle_missing", f"there is no bundle of Kubernetes {version}")
    return bundle


def list_bundles(cache_dir: Path | None = None) -> list[Bundle]:
    """All complete bundles in the cache, the newest first; broken folders are left out (`leftovers` names them)."""
    bundles = [bundle for folder in _folders(cache_dir) if (bundle := whole(folder))]
    return sorted(bundles, key=lambda one: (one.manifest.created, one.name), reverse=True)


def leftovers(cache_dir: Path | None = None) -> list[Path]:
    """What is in the folder of bundles and is no complete bundle: ended builds, broken bundles, downloads begun."""
    base = root(cache_dir)
    whole = {bundle.path for bundle in list_bundles(cache_dir)}
    if not base.is_dir():
        return []
    return sorted(path for path in base.iterdir() if path not in whole and path.name != ".lock")


def verify(bundle: Bundle) -> list[str]:
    """Hash every file: one line for each that is missing, wrong or not in the manifest, none when all is well."""
    problems = []
    listed = {one.path: one for one in bundle.manifest.files}
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
    """Remove a bundle (or a path of `leftovers`), after any build under way; returns the bytes that it took."""
    path = bundle.path if isinstance(bundle, Bundle) else bundle
    with locked(path.parent, progress):
        freed = size_of(path)
        _discard(path)
    return freed


def size_of(path: Path) -> int:
    """Bytes of all files under ``path``."""
    if path.is_file() and not path.is_symlink():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir() or file.is_symlink())


def total(cache_dir: Path | None = None) -> int:
    """Bytes of all bundles, unfinished builds and fetched toolchains in the cache."""
    base = cache_dir or paths.cache()
    return sum(size_of(base / part) for part in ("bundle", "go") if (base / part).is_dir())


@contextlib.contextmanager
def locked(base: Path, progress: Progress = silent) -> Iterator[None]:
    """Hold the lock of the folder of bundles; the kernel frees it when the process ends, however it ends."""
    with disk_errors(base):
        base.mkdir(parents=True, exist_ok=True)
        handle = os.open(base / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        patience = 0.0
        while not wait.until(lambda: _try_lock(handle), time.monotonic() + patience, pause=0.3):
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            progress(f"waiting for process {holder}, which makes a bundle in {base}")
            patience = 30.0
        with disk_errors(base):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def building(base: Path) -> Iterator[Path]:
    """A new empty folder to build a bundle in, gone at the end whatever happens. The caller holds the lock.

    What killed builds left is removed first.
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
    """Write the manifest and move the finished folder to its place; a broken bundle of the same name makes way."""
    (temp / manifests.NAME).write_text(manifest.dump(), encoding="utf-8")
    temp.chmod(0o755)
    target = base / manifest.folder
    if target.exists() or target.is_symlink():
        # Two renames: nobody ever sees a folder of this name that is half removed.
        old = Path(tempfile.mkdtemp(prefix=_BUILD, dir=base)) / "old"
        target.rename(old)
        temp.rename(target)
        _discard(old.parent)
    else:
        temp.rename(target)
    return Bundle(target, manifest)


def grow(bundle: Bundle, temp: Path, added: Manifest) -> Bundle:
    """Add the files and images of ``added``, which stand in ``temp``, to ``bundle``. Its manifest changes last, so that
    the bundle is whole at every moment. The caller holds the lock.
    """
    old, paths = bundle.manifest, {file.path for file in added.files}
    for file in added.files:
        target = bundle.path / file.path
        target.parent.mkdir(exist_ok=True)
        (temp / file.path).replace(target)
    manifest = replace(
        old,
        files=tuple(sorted([*(f for f in old.files if f.path not in paths), *added.files], key=lambda file: file.path)),
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
        if isinstance(error, (ConnectionError, TimeoutError)) or error.errno is None:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DevenvError("bundle_disk_full", "no space left on the disk", where=str(where)) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            path = error.filename or where
            raise DevenvError("bundle_unwritable", f"cannot be written: {error.strerror}", where=str(path)) from None
        raise


def whole(folder: Path) -> Bundle | None:
    """The bundle in ``folder`` when its manifest is sound and every file has its size."""
    try:
        manifest = manifests.load(folder)
        sizes = all((folder / one.path).stat().st_size == one.size for one in manifest.files)
    except (DevenvError, OSError):
        return None
    return Bundle(folder, manifest) if sizes and manifest.folder == folder.name else None


def _folders(cache_dir: Path | None) -> list[Path]:
    base = root(cache_dir)
    if not base.is_dir():
        return []
    return [path for path in base.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _discard(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
