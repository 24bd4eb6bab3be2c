"""Where a bundle comes from: cache, directory, official releases, Go modules; `auto` takes the first that works."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import archive, downloads, modules, store
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions as versions_of
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import Manifest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.modules import Content
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle, Progress
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

SOURCES = ("auto", "cache", "directory", "release", "modules")
AUTO = ("cache", "directory", "release", "modules")
# `auto` goes on to the next source after these; anything else (a wrong digest, a full disk) must not be papered over.
_NOT_HERE = frozenset(
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
    """How to get a bundle; ``directory`` is a folder of bundles or archives, one bundle, or an exported archive."""

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
    """Return a bundle for Kubernetes ``version`` with at least the optional ``parts``: (bundle, whether any of it was
    made now, one note for each source looked at).

    With ``check`` nothing is made, and the bundle may be None. Raises DevenvError (exit 12); with ``auto`` the message
    names what each source said.
    """
    if source not in SOURCES:
        raise DevenvError("bundle_source_unknown", f"no source {source!r}: known are {', '.join(SOURCES)}")
    wanted, chosen = versions_of.wanted(version), versions_of.check_parts(parts)
    # Who names a way to make it wants a bundle that was made this way.
    makers = (source,) if source in store.MAKERS else store.MAKERS
    found = store.find(wanted.kubernetes, cache_dir, makers)
    if found and not found.lacks(chosen):
        return found, False, [f"cache: {found.path}"]
    if source == "cache":
        raise _not_in_cache(wanted, cache_dir, chosen)
    if check:
        return found, True, [f"cache: {_not_in_cache(wanted, cache_dir, chosen)}"]
    base = store.root(cache_dir)
    with store.locked(base, progress):
        # Another process may have made it while this one waited.
        found = store.find(wanted.kubernetes, cache_dir, makers)
        if found and not found.lacks(chosen):
            return found, False, [f"cache: {found.path}"]
        return _first(wanted, chosen, found, source, options or Options(), cache_dir or paths.cache(), progress)


def in_cache(version: str | None = None, cache_dir: Path | None = None) -> Bundle:
    """The bundle for Kubernetes ``version`` that is in the cache. Raises DevenvError ``bundle_not_in_cache``."""
    found = store.find(version, cache_dir)
    if found is None:
        raise _not_in_cache(versions_of.wanted(version), cache_dir, ())
    return found


def verified(version: str | None = None) -> Bundle:
    """Return the bundle of the cache with every file as its manifest says.

    Raises DevenvError ``bundle_not_in_cache``, ``bundle_wrong_digest``.
    """
    bundle = in_cache(version)
    if problems := store.verify(bundle):
        raise DevenvError(
            "bundle_wrong_digest",
            "; ".join(problems),
            where=str(bundle.path),
            advice="devenv bundle build makes it anew.",
        )
    return bundle


def _first(
    wanted: Versions, parts: tuple[str, ...], found: Bundle | None, source: str, options: Options, cache: Path,
    progress: Progress,
) -> tuple[Bundle, bool, list[str]]:  # fmt: skip
    """The bundle of the first source that works; a bundle that was ``found`` gets the parts that it lacks."""
    notes: list[str] = []
    for one in AUTO if source == "auto" else (source,):
        try:
            bundle = _make(one, wanted, parts, found, options, cache, progress, probe=source == "auto")
        except DevenvError as error:
            if source != "auto" or error.reason.id not in _NOT_HERE:
                raise
            notes.append(f"{one}: {error}")
            progress(f"source {one} not used: {error}")
            continue
        notes.append(f"{one}: {bundle.path}")
        return bundle, True, notes
    raise DevenvError("bundle_no_source", f"no source gave Kubernetes {wanted.kubernetes}: " + "; ".join(notes))


def _make(
    source: str, wanted: Versions, parts: tuple[str, ...], found: Bundle | None, options: Options, cache: Path,
    progress: Progress, *, probe: bool,
) -> Bundle:  # fmt: skip
    """One source. The caller holds the lock."""
    base = store.root(cache)
    if source == "cache":
        raise _not_in_cache(wanted, cache, parts)
    if source == "directory":
        if options.directory is None:
            raise DevenvError("bundle_not_in_directory", "no directory is given")
        return archive.from_directory(options.directory, wanted, base, progress, parts)
    if found and found.manifest.source != source:
        raise DevenvError("bundle_not_found", f"{found.name} is of source {found.manifest.source}")
    arch = versions_of.architecture()
    missing = tuple(found.lacks(parts)) if found else (versions_of.BASE, *parts)
    with store.building(base) as temp:
        if source == "release":
            # Imported here: only this source needs the HTTP library, which takes time to load.
            from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.release import fetch, look

            if probe:
                look(wanted, options.places, arch, missing)
            content = fetch(wanted, options.places, temp, base, arch, progress, missing)
        else:
            content = modules.build(wanted, temp, cache, arch, progress, missing)
        progress("writing the manifest")
        manifest = _manifest(content, wanted, source, arch)
        return store.grow(found, temp, manifest) if found else store.publish(temp, base, manifest)


def _manifest(content: Content, wanted: Versions, source: str, arch: str) -> Manifest:
    return Manifest(
        kubernetes=wanted.kubernetes,
        arch=arch,
        source=source,
        inputs=versions_of.inputs(wanted, source, arch),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        files=tuple(sorted(content.files, key=lambda one: one.path)),
        images=tuple(sorted(content.images, key=lambda one: one.name)),
        packages=content.packages,
    )


def _not_in_cache(wanted: Versions, cache_dir: Path | None, parts: tuple[str, ...]) -> DevenvError:
    found = store.find(wanted.kubernetes, cache_dir)
    if found and (lacks := found.lacks(parts)):
        return DevenvError("bundle_not_in_cache", f"{found.path} lacks {', '.join(lacks)}")
    others = [bundle.name for bundle in store.list_bundles(cache_dir)]
    there = f"; there are {', '.join(others)}" if others else ""
    return DevenvError("bundle_not_in_cache", f"no bundle of {wanted.kubernetes} in {store.root(cache_dir)}{there}")
