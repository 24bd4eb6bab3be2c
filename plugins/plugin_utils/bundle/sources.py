"""Where a bundle comes from: cache, directory, official releases, Go modules; `auto` uses the first that works."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import archive, downloads, modules, store
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions as versions_of
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import Content, Manifest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle, Progress
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

AUTO = ("cache", "directory", "release", "modules")
SOURCES = ("auto", *AUTO)
# `auto` continues with the next source after these; others (a wrong digest, a full disk) must not go unnoticed.
_NOT_AVAILABLE = frozenset(
    {
        "bundle_not_in_cache",
        "bundle_not_in_directory",
        "bundle_library_missing",
        "bundle_unreachable",
        "bundle_not_found",
        "bundle_image_missing",
    }
)


@dataclass(frozen=True)
class Options:
    """Settings of the sources; ``directory`` is a folder of bundles or archives, one bundle, or an exported archive."""

    directory: Path | None = None
    places: Mapping[str, str] = field(default_factory=downloads.official)


def ensure(
    version: str | None = None,
    source: str = "auto",
    *,
    parts: Iterable[str] = (),
    options: Options | None = None,
    cache_dir: Path | None = None,
    progress: Progress = store.silent,
    check: bool = False,
) -> tuple[Bundle | None, bool, list[str]]:
    """Return a bundle for Kubernetes ``version`` with at least the optional ``parts``.

    The result is (bundle, whether it changed, one note per source tried). With ``check`` nothing is built, and the
    bundle may be None. Raises DevenvError (exit code 12); with ``auto`` the message has the error of each source.
    """
    if source not in SOURCES:
        raise DevenvError("bundle_source_unknown", f"unknown source {source!r}; sources: {', '.join(SOURCES)}")
    versions, chosen = versions_of.resolve(version), versions_of.check_parts(parts)
    # A source that is named explicitly must have built the bundle itself.
    makers = (source,) if source in store.MAKERS else store.MAKERS

    def cached() -> Bundle | None:
        return store.find(versions.kubernetes, cache_dir, makers)

    bundle = cached()
    if bundle and not bundle.lacks(chosen):
        return bundle, False, [f"cache: {bundle.path}"]
    if source == "cache":
        raise _not_in_cache(versions, cache_dir, chosen)
    if check:
        return bundle, True, [f"cache: {_not_in_cache(versions, cache_dir, chosen)}"]
    with store.locked(store.root(cache_dir), progress):
        # Another process may have built it in the meantime.
        bundle = cached()
        if bundle and not bundle.lacks(chosen):
            return bundle, False, [f"cache: {bundle.path}"]
        return _try(versions, chosen, bundle, source, options or Options(), cache_dir or paths.cache(), progress)


def in_cache(version: str | None = None, cache_dir: Path | None = None) -> Bundle:
    """Return the bundle for Kubernetes ``version`` in the cache. Raises DevenvError ``bundle_not_in_cache``."""
    bundle = store.find(version, cache_dir)
    if bundle is None:
        raise _not_in_cache(versions_of.resolve(version), cache_dir, ())
    return bundle


def verified(version: str | None = None) -> Bundle:
    """Return the bundle in the cache, with every file verified against its manifest.

    Raises DevenvError ``bundle_not_in_cache``, ``bundle_wrong_digest``.
    """
    bundle = in_cache(version)
    if problems := store.verify(bundle):
        raise DevenvError(
            "bundle_wrong_digest",
            "; ".join(problems),
            where=str(bundle.path),
            advice="Rebuild it: devenv bundle build.",
        )
    return bundle


def _try(
    versions: Versions, parts: tuple[str, ...], present: Bundle | None, source: str, options: Options, cache: Path,
    progress: Progress,
) -> tuple[Bundle, bool, list[str]]:  # fmt: skip
    """Return the bundle of the first source that works; a bundle that is ``present`` gets the parts that it lacks."""
    if source != "auto":
        bundle = _provide(source, versions, parts, present, options, cache, progress)
        return bundle, True, [f"{source}: {bundle.path}"]
    notes = [f"cache: {_not_in_cache(versions, cache, parts)}"]
    for name in AUTO[1:]:
        try:
            bundle = _provide(name, versions, parts, present, options, cache, progress, probe=True)
        except DevenvError as error:
            if error.reason.id not in _NOT_AVAILABLE:
                raise
            notes.append(f"{name}: {error}")
            progress(f"source {name} not used: {error}")
        else:
            return bundle, True, [*notes, f"{name}: {bundle.path}"]
    raise DevenvError("bundle_no_source", f"no source has Kubernetes {versions.kubernetes}: " + "; ".join(notes))


def _provide(
    source: str, versions: Versions, parts: tuple[str, ...], present: Bundle | None, options: Options, cache: Path,
    progress: Progress, *, probe: bool = False,
) -> Bundle:  # fmt: skip
    """Import or build the bundle from one source. The caller holds the lock."""
    base = store.root(cache)
    if source == "directory":
        if options.directory is None:
            raise DevenvError("bundle_not_in_directory", "no directory is given")
        return archive.from_directory(options.directory, versions, base, progress, parts)
    if present and present.manifest.source != source:
        raise DevenvError("bundle_not_found", f"{present.name} is from the source {present.manifest.source}")
    arch = versions_of.architecture()
    missing = tuple(present.lacks(parts)) if present else (versions_of.BASE, *parts)
    with store.building(base) as temp:
        if source == "release":
            # Imported here: only this source needs the HTTP library, which takes time to load.
            from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.release import check_places, fetch

            if probe:
                check_places(versions, options.places, arch, missing)
            content = fetch(versions, options.places, temp, base, arch, progress, missing)
        else:
            content = modules.build(versions, temp, cache, arch, progress, missing)
        progress("writing the manifest")
        manifest = _manifest(content, versions, source, arch)
        return store.grow(present, temp, manifest) if present else store.publish(temp, base, manifest)


def _manifest(content: Content, versions: Versions, source: str, arch: str) -> Manifest:
    return Manifest(
        kubernetes=versions.kubernetes,
        arch=arch,
        source=source,
        inputs=versions_of.inputs(versions, source, arch),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        files=tuple(sorted(content.files, key=lambda file: file.path)),
        images=tuple(sorted(content.images, key=lambda image: image.name)),
        packages=content.packages,
    )


def _not_in_cache(versions: Versions, cache_dir: Path | None, parts: tuple[str, ...]) -> DevenvError:
    bundle = store.find(versions.kubernetes, cache_dir)
    if bundle and (lacks := bundle.lacks(parts)):
        return DevenvError("bundle_not_in_cache", f"{bundle.path} lacks {', '.join(lacks)}")
    others = [bundle.name for bundle in store.list_bundles(cache_dir)]
    hint = f"; it has {', '.join(others)}" if others else ""
    return DevenvError("bundle_not_in_cache", f"no bundle of {versions.kubernetes} in {store.root(cache_dir)}{hint}")
