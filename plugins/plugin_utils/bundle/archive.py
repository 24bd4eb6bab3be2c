"""Export a bundle to one archive, and import it from an archive or a folder; needs no network."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import manifest as manifests
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions as versions_of
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import File, Manifest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle, Progress
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_CHUNK = 1 << 20


# --- export -----------------------------------------------------------------------------------------------------------


def export(bundle: Bundle, target: Path, progress: Progress = store.silent) -> Path:
    """Write ``bundle`` to the archive ``target`` (``.tar`` or ``.tar.gz``; in a folder, the name is generated).

    A bundle that differs from its manifest raises DevenvError ``bundle_wrong_digest`` and leaves no archive. Equal
    bundles give equal archives.
    """
    if target.is_dir():
        target = target / f"devenv-bundle-{bundle.name}-{bundle.manifest.arch}.tar.gz"
    if not target.name.endswith(SUFFIXES):
        raise DevenvError("bundle_archive_name", f"the name must end in {', '.join(SUFFIXES)}", where=str(target))
    with store.disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".export-", dir=target.parent)
    try:
        with store.disk_errors(target), os.fdopen(handle, "wb") as stream:
            _write(bundle, stream, progress, compress=not target.name.endswith(".tar"))
        Path(name).chmod(0o644)
        Path(name).rename(target)
    finally:
        Path(name).unlink(missing_ok=True)
    return target


def is_export_of(archive: Path, bundle: Bundle) -> bool:
    """Return whether ``archive`` is an export of exactly this bundle, by its manifest."""
    try:
        return archive.is_file() and peek(archive).files == bundle.manifest.files
    except DevenvError:
        return False


def _write(bundle: Bundle, stream: IO[bytes], progress: Progress, *, compress: bool) -> None:
    with (
        tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.GNU_FORMAT, compresslevel=1)
        if compress
        else tarfile.open(fileobj=stream, mode="w:", format=tarfile.GNU_FORMAT)
    ) as tar:
        text = bundle.manifest.dump().encode()
        tar.addfile(_info(manifests.NAME, len(text), 0o644), io.BytesIO(text))
        for entry in bundle.manifest.files:
            progress(f"writing {entry.path}")
            file = bundle.path / entry.path
            try:
                digest, status = manifests.sha256(file), file.stat()
            except OSError as error:
                raise DevenvError("bundle_broken", f"{entry.path}: {error.strerror}", where=str(bundle.path)) from None
            if digest != entry.sha256:
                what = f"{entry.path} differs from the manifest"
                raise DevenvError("bundle_wrong_digest", what, where=str(bundle.path))
            with file.open("rb") as content:
                tar.addfile(_info(entry.path, status.st_size, status.st_mode & 0o777), content)


def _info(name: str, size: int, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, mode
    return info


# --- import -----------------------------------------------------------------------------------------------------------


def import_archive(
    archive: Path, cache_dir: Path | None = None, progress: Progress = store.silent
) -> tuple[Bundle, bool]:
    """Import an exported archive: (bundle, whether it was new). Every file is verified against the manifest.

    Raises DevenvError ``bundle_archive_broken``, ``bundle_wrong_digest`` or ``bundle_of_others``.
    """
    base = store.root(cache_dir)
    manifest = peek(archive)
    _check_usable(manifest, archive)
    with store.locked(base, progress):
        return _import(archive, manifest, base, progress)


def from_directory(
    directory: Path, versions: Versions, base: Path, progress: Progress, parts: tuple[str, ...] = ()
) -> Bundle:
    """Import the bundle of ``versions`` with ``parts`` from a bundle's folder, an archive, or a folder of those.

    The caller holds the lock. Raises DevenvError ``bundle_not_in_directory``, or the reason why the archive or its
    files cannot be imported.
    """
    if not directory.exists():
        raise DevenvError("bundle_not_in_directory", "no such file or directory", where=str(directory))
    candidates = [directory] if directory.is_file() else [directory, *sorted(directory.iterdir())]
    names, others = store.folder_names(versions), []
    for candidate in candidates:
        manifest = _manifest_of(candidate, required=directory.is_file())
        if manifest is None:
            continue
        missing = sorted(set(parts) - manifest.parts)
        if manifest.folder in names and not missing:
            return _import(candidate, manifest, base, progress)[0]
        others.append(manifest.folder + (f" without {', '.join(missing)}" if missing else ""))
    hint = f"; it has {', '.join(others)}" if others else ""
    what = f"no bundle of Kubernetes {versions.kubernetes} for this version of devenv{hint}"
    raise DevenvError("bundle_not_in_directory", what, where=str(directory))


def peek(archive: Path) -> Manifest:
    """Return the manifest of an archive (its first file). Raises DevenvError ``bundle_archive_broken``."""
    with _reading(archive) as tar:
        member = tar.next()
        stream = tar.extractfile(member) if member and member.isreg() and member.name == manifests.NAME else None
        if stream is None:
            raise DevenvError("bundle_archive_broken", "is not an exported bundle", where=str(archive))
        return manifests.parse(stream.read(), str(archive))


def _manifest_of(candidate: Path, *, required: bool) -> Manifest | None:
    """Return the manifest of a bundle's folder or an archive; None for anything else, unless it is ``required``."""
    if candidate.is_dir():
        return manifests.load(candidate) if (candidate / manifests.NAME).is_file() else None
    return peek(candidate) if required or candidate.name.endswith(SUFFIXES) else None


def _check_usable(manifest: Manifest, archive: Path) -> None:
    arch = versions_of.architecture()
    if manifest.arch != arch:
        what = f"was built for {manifest.arch}, this machine is {arch}"
        raise DevenvError("bundle_of_others", what, where=str(archive))
    names = store.folder_names(versions_of.resolve(manifest.kubernetes))
    if manifest.folder not in names:
        what = f"was built by another version of devenv ({manifest.folder}; this one accepts {' or '.join(names)})"
        raise DevenvError("bundle_of_others", what, where=str(archive))


def _import(source: Path, manifest: Manifest, base: Path, progress: Progress) -> tuple[Bundle, bool]:
    """Copy what the cache lacks from ``source``, an archive or a folder: (bundle, whether anything was new)."""
    present = store.whole(base / manifest.folder)
    if present and present.digest != manifest.digest:
        present = None
    lacked = present.lacks(manifest.parts) if present else []
    missing = [file for file in manifest.files if not present or file.part in lacked]
    if present and not missing:
        return present, False
    progress(f"{'unpacking' if source.is_file() else 'copying'} {source}")
    with store.building(base) as temp:
        if source.is_file():
            _unpack(source, manifest, missing, temp)
        else:
            _copy(source, missing, temp)
        if present is None:
            return store.publish(temp, base, manifest), True
        paths = {file.path for file in missing}
        images = tuple(image for image in manifest.images if image.path in paths)
        return store.grow(present, temp, replace(manifest, files=tuple(missing), images=images)), True


def _unpack(archive: Path, manifest: Manifest, files: list[File], folder: Path) -> None:
    missing = {file.path: file for file in files}
    ignored = {manifests.NAME, *(file.path for file in manifest.files)} - missing.keys()
    with _reading(archive) as tar:
        for member in tar:
            path = str(PurePosixPath(member.name))
            if path in ignored:
                continue
            entry = missing.pop(path, None)
            stream = tar.extractfile(member) if entry and member.isreg() else None
            if entry is None or stream is None:
                what = f"contains {member.name}, which is not in its manifest"
                raise DevenvError("bundle_archive_broken", what, where=str(archive))
            _store(stream, folder, entry, archive)
    if missing:
        raise DevenvError("bundle_archive_broken", f"lacks {', '.join(sorted(missing))}", where=str(archive))


def _copy(source: Path, files: list[File], folder: Path) -> None:
    for entry in files:
        try:
            stream = (source / entry.path).open("rb")
        except OSError as error:
            raise DevenvError("bundle_broken", f"{entry.path}: {error.strerror}", where=str(source)) from None
        with stream:
            _store(stream, folder, entry, source)


def _store(stream: IO[bytes], folder: Path, entry: File, source: Path) -> None:
    """Copy a file of a bundle and verify its digest."""
    target = folder / entry.path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("wb") as out:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != entry.sha256:
        what = f"{entry.path}: sha256 is {digest.hexdigest()}, the manifest has {entry.sha256}"
        raise DevenvError("bundle_wrong_digest", what, where=str(source))
    target.chmod(0o644 if entry.path.startswith("images/") else 0o755)


@contextlib.contextmanager
def _reading(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive for reading; turn its defects into DevenvError ``bundle_archive_broken``."""
    opened = False
    try:
        with tarfile.open(archive, "r:*") as tar:
            opened = True
            yield tar
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        if opened and isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the target's filesystem
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DevenvError("bundle_archive_broken", f"cannot be read: {text}", where=str(archive)) from None
