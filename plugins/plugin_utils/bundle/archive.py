"""A bundle as one file: written, and taken in again on a machine that may have no network at all."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import manifest as manifests
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions as versions_of
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import Manifest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle, Progress
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

# Ending of the archive's name -> how tarfile opens it to write.
ENDINGS = {".tar": "w:", ".tar.gz": "w:gz", ".tgz": "w:gz"}
_FIRST_LEVEL = 1
_CHUNK = 1 << 20


def export(bundle: Bundle, target: Path, progress: Progress = store.silent) -> Path:
    """Write ``bundle`` to the archive ``target`` (``.tar``, or ``.tar.gz``; a folder: a name is chosen there).

    Every file is hashed on the way; a bundle that is not what its manifest says raises DevenvError
    ``bundle_wrong_digest`` and leaves no archive. Equal bundles give equal archives.
    """
    if target.is_dir():
        target = target / f"devenv-bundle-{bundle.name}-{bundle.manifest.arch}.tar.gz"
    mode = _mode(target)
    with store.disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".export-", dir=target.parent)
    try:
        with store.disk_errors(target), os.fdopen(handle, "wb") as stream:
            _write(bundle, stream, mode, progress)
        Path(name).chmod(0o644)
        Path(name).rename(target)
    finally:
        Path(name).unlink(missing_ok=True)
    return target


def import_archive(
    archive: Path, cache_dir: Path | None = None, progress: Progress = store.silent
) -> tuple[Bundle, bool]:
    """Take an exported archive in: (bundle, whether it was new). Every file is checked against the manifest.

    Raises DevenvError ``bundle_archive_broken``, ``bundle_wrong_digest`` or ``bundle_of_others``.
    """
    base = store.root(cache_dir)
    manifest = peek(archive)
    _check_use(manifest, archive)
    with store.locked(base, progress):
        return take(archive, manifest, base, progress)


def from_directory(
    directory: Path, wanted: Versions, base: Path, progress: Progress, parts: tuple[str, ...] = ()
) -> Bundle:
    """The bundle for ``wanted`` with ``parts`` out of a bundle's folder, an archive, or a folder of those. The caller
    holds the lock.

    Raises DevenvError ``bundle_not_in_directory``, or what the archive or the files are wrong by.
    """
    names = {
        f"{wanted.kubernetes}-{versions_of.inputs(wanted, source, versions_of.architecture())}"
        for source in store.MAKERS
    }
    if not directory.exists():
        raise DevenvError("bundle_not_in_directory", "no such file or folder", where=str(directory))
    candidates = [directory] if directory.is_file() else [directory, *sorted(directory.iterdir())]
    seen = []
    for candidate in candidates:
        manifest = _manifest_of(candidate, must=candidate == directory and directory.is_file())
        if manifest is None:
            continue
        lacks = sorted(set(parts) - manifest.parts)
        if manifest.folder in names and not lacks:
            return _copy(candidate, manifest, base, progress)
        seen.append(manifest.folder + (f" without {', '.join(lacks)}" if lacks else ""))
    there = f"; it has {', '.join(seen)}" if seen else ""
    what = f"no bundle of Kubernetes {wanted.kubernetes} for this version of devenv{there}"
    raise DevenvError("bundle_not_in_directory", what, where=str(directory))


def peek(archive: Path) -> Manifest:
    """The manifest of an archive (its first file). Raises DevenvError ``bundle_archive_broken``."""
    with _reading(archive) as tar:
        member = tar.next()
        if member is None or member.name != manifests.NAME or not member.isreg():
            raise DevenvError("bundle_archive_broken", "is no exported bundle", where=str(archive))
        stream = tar.extractfile(member)
        if stream is None:
            raise AssertionError("stream")
        return manifests.parse(stream.read(), str(archive))


def holds(archive: Path, bundle: Bundle) -> bool:
    """Whether ``archive`` is an export of just this bundle, by its manifest."""
    try:
        return archive.is_file() and peek(archive).files == bundle.manifest.files
    except DevenvError:
        return False


def take(archive: Path, manifest: Manifest, base: Path, progress: Progress) -> tuple[Bundle, bool]:
    """Unpack ``archive`` into the folder of bundles ``base``. The caller holds the lock."""
    present, missing_files = _compare(base, manifest)
    if present and not missing_files:
        return present, False
    progress(f"unpacking {archive}")
    with store.building(base) as temp:
        missing = {file.path: file for file in missing_files}
        with _reading(archive) as tar:
            for member in tar:
                if member.name == manifests.NAME or (present and member.name not in missing):
                    continue
                entry = missing.pop(str(PurePosixPath(member.name)), None)
                if entry is None or not member.isreg():
                    raise DevenvError("bundle_archive_broken", f"holds {member.name}, which is not in its manifest",
                                      where=str(archive))  # fmt: skip
                stream = tar.extractfile(member)
                if stream is None:
                    raise AssertionError("stream")
                _store(stream, temp, entry, str(archive))
        if missing:
            raise DevenvError("bundle_archive_broken", f"lacks {', '.join(sorted(missing))}", where=str(archive))
        return _place(temp, base, manifest, present, missing_files), True


def _compare(base: Path, manifest: Manifest) -> tuple[Bundle | None, list[manifests.File]]:
    """The bundle in the cache that a bundle with this manifest can be added to, and the files that it lacks."""
    present = store.whole(base / manifest.folder)
    if present is None or present.digest != manifest.digest:
        return None, list(manifest.files)
    lacks = present.lacks(manifest.parts)
    return present, [file for file in manifest.files if file.part in lacks]


def _place(temp: Path, base: Path, manifest: Manifest, present: Bundle | None, added: list[manifests.File]) -> Bundle:
    if present is None:
        return store.publish(temp, base, manifest)
    paths = {file.path for file in added}
    images = tuple(image for image in manifest.images if image.path in paths)
    return store.grow(present, temp, replace(manifest, files=tuple(added), images=images))


def _copy(source: Path, manifest: Manifest, base: Path, progress: Progress) -> Bundle:
    if source.is_file():
        return take(source, manifest, base, progress)[0]
    present, missing = _compare(base, manifest)
    if present and not missing:
        return present
    progress(f"copying {source}")
    with store.building(base) as temp:
        for entry in missing:
            try:
                stream = (source / entry.path).open("rb")
            except OSError as error:
                raise DevenvError("bundle_broken", f"{entry.path}: {error.strerror}", where=str(source)) from None
            with stream:
                _store(stream, temp, entry, str(source))
        return _place(temp, base, manifest, present, missing)


def _store(stream: IO[bytes], folder: Path, entry: manifests.File, where: str) -> None:
    """Copy a file of a bundle and check it on the way."""
    target = folder / entry.path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("wb") as out:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != entry.sha256:
        what = f"{entry.path}: sha256 is {digest.hexdigest()}, the manifest says {entry.sha256}"
        raise DevenvError("bundle_wrong_digest", what, where=where)
    target.chmod(0o644 if entry.path.startswith("images/") else 0o755)


def _write(bundle: Bundle, stream: IO[bytes], mode: str, progress: Progress) -> None:
    level = {"compresslevel": _FIRST_LEVEL} if mode == "w:gz" else {}
    with tarfile.open(fileobj=stream, mode=mode, format=tarfile.GNU_FORMAT, **level) as tar:  # type: ignore[call-overload]
        text = bundle.manifest.dump().encode()
        tar.addfile(_info(manifests.NAME, len(text), 0o644), io.BytesIO(text))
        for entry in bundle.manifest.files:
            progress(f"writing {entry.path}")
            file = bundle.path / entry.path
            try:
                source = _Hashing(file.open("rb"))
            except OSError as error:
                raise DevenvError("bundle_broken", f"{entry.path}: {error.strerror}", where=str(bundle.path)) from None
            with source.stream:
                size = file.stat().st_size
                if size == entry.size:
                    tar.addfile(_info(entry.path, size, file.stat().st_mode & 0o777), source)
            if source.digest.hexdigest() != entry.sha256:
                what = f"{entry.path} is not what the manifest says"
                raise DevenvError("bundle_wrong_digest", what, where=str(bundle.path))


class _Hashing:
    """A file that hashes what is read of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.digest.update(data)
        return data


class _reading:
    """Open an archive to read; turns what is wrong with it into DevenvError ``bundle_archive_broken``."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive

    def __enter__(self) -> tarfile.TarFile:
        try:
            self.tar = tarfile.open(self.archive, "r:*")
        except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
            raise self._broken(error) from None
        return self.tar

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.tar.close()
        if isinstance(error, (tarfile.TarError, EOFError, zlib.error)) or (
            isinstance(error, OSError) and error.errno is None
        ):
            raise self._broken(error) from None

    def _broken(self, error: BaseException) -> DevenvError:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return DevenvError("bundle_archive_broken", f"cannot be read: {text}", where=str(self.archive))


def _manifest_of(candidate: Path, *, must: bool) -> Manifest | None:
    """Manifest of a bundle's folder or an archive; None for anything else, unless it ``must`` be one."""
    if candidate.is_dir():
        return manifests.load(candidate) if (candidate / manifests.NAME).is_file() else None
    if must or candidate.name.endswith(tuple(ENDINGS)):
        return peek(candidate)
    return None


def _check_use(manifest: Manifest, archive: Path) -> None:
    """Refuse what this machine or this version of devenv would not use."""
    arch = versions_of.architecture()
    if manifest.arch != arch:
        raise DevenvError(
            "bundle_of_others", f"is made for {manifest.arch}, this machine is {arch}", where=str(archive)
        )
    wanted = versions_of.wanted(manifest.kubernetes)
    usable = [versions_of.inputs(wanted, source, arch) for source in store.MAKERS]
    if manifest.inputs not in usable:
        what = f"was made by another version of devenv ({manifest.folder}; this one takes {' or '.join(usable)})"
        raise DevenvError("bundle_of_others", what, where=str(archive))


def _info(name: str, size: int, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, mode
    return info


def _mode(target: Path) -> str:
    for ending, mode in ENDINGS.items():
        if target.name.endswith(ending):
            return mode
    raise DevenvError("bundle_archive_name", f"{target.name} ends in none of {', '.join(ENDINGS)}", where=str(target))
