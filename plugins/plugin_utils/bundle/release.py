"""The source `release`: official programs and images or a mirror of them, each checked by its published sha256."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import tarfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import debian, images, oci
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.download import Fetcher, checksum
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.downloads import Item, items
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import File, Image, describe
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.modules import Content
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.registry import Registry, Resolved
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Progress
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import BASE, DOCKER, REGISTRY, Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

DOWNLOADS = ".downloads"
_PROBE_PACKAGES = ("busybox-static", "ca-certificates", "catatonit", "curl", "netbase")


def look(versions: Versions, places: Mapping[str, str], arch: str, parts: Collection[str]) -> None:
    """Look quickly whether all places of ``parts`` answer. Raises the DevenvError of the first that does not."""
    quick = Fetcher(Path("/nonexistent"), attempts=1, timeout=(4, 6))
    registries = _registries(places, quick)
    sums = {item.place: item.sums for item in items(versions, places, arch) if item.part in parts}.values()
    with concurrent.futures.ThreadPoolExecutor(len(sums) + len(registries)) as pool:
        texts = [pool.submit(quick.text, url) for url in sums]
        answers = [pool.submit(registry.reach) for registry in registries.values()]
        for answer in answers:
            answer.result()
        for text in texts:
            text.result()


def fetch(
    versions: Versions, places: Mapping[str, str], folder: Path, base: Path, arch: str, progress: Progress,
    parts: Collection[str] = (BASE,),
) -> Content:  # fmt: skip
    """Put ``parts`` into ``folder``; what was fetched stays in ``base/.downloads`` until all of it is there."""
    keep = base / DOWNLOADS
    fetcher = Fetcher(keep, progress)
    for part in ("bin", "cni", "images", "scratch"):
        (folder / part).mkdir()
    registries = _registries(places, fetcher)
    chosen = {part: [item for item in items(versions, places, arch) if item.part == part] for part in parts}
    names = {part: list(versions.images_of(part).values()) for part in parts}
    content = Content([], [], {})
    if BASE in parts:
        kubeadm = chosen[BASE].pop(0)
        content.files.extend(_item(kubeadm, fetcher, folder, progress))
        names[BASE] = images.wanted_by(folder / kubeadm.target, versions.kubernetes)
    # Images that are missing, of whatever part, are reported before gigabytes were fetched in vain.
    resolved = _look_up([name for part in parts for name in names[part]], registries, arch)
    for part in parts:
        files = [row for item in chosen[part] for row in _item(item, fetcher, folder, progress)]
        of_part = [(registry, image) for registry, image in resolved if image.name in names[part]]
        fetched_files, fetched = _images(of_part, folder, progress)
        files += [*fetched_files, *_programs_of_images(versions.images_of(part), fetched, folder)]
        content.files.extend(replace(file, part=part) for file in files)
        content.images.extend(fetched)
    if BASE in parts:
        # Our own image is published nowhere.
        root = debian.unpack(versions.debian, folder / "scratch", progress, _PROBE_PACKAGES)
        made = images.make(["probe"], folder, versions, root, arch, progress)
        content.files.extend(made.files)
        content.images.extend(made.images)
        content.packages.update(root.packages)
    shutil.rmtree(folder / "scratch")
    shutil.rmtree(keep, ignore_errors=True)
    return content


def _item(item: Item, fetcher: Fetcher, folder: Path, progress: Progress) -> list[File]:
    progress(f"{item.name}: fetching")
    digest = checksum(fetcher.text(item.sums), item.name, item.sums)
    file = fetcher.file(item.url, digest, label=item.name)
    if item.target:
        os.link(file, folder / item.target)
        targets: Iterable[str] = (item.target,)
    else:
        _unpack(file, item, folder)
        targets = (target for _ignored, target in item.members)
    rows = []
    for target in targets:
        (folder / target).chmod(0o755)
        rows.append(describe(folder, target, item.version, item.url))
    return rows


def _unpack(archive: Path, item: Item, folder: Path) -> None:
    missing = dict(item.members)
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                target = missing.pop(str(PurePosixPath(member.name)), None) if member.isreg() else None
                stream = tar.extractfile(member) if target else None
                if target and stream:
                    with (folder / target).open("wb") as out:
                        shutil.copyfileobj(stream, out)
    except (tarfile.TarError, EOFError) as error:
        raise DevenvError("bundle_not_found", f"is no tar archive: {error}", where=item.url) from None
    if missing:
        raise DevenvError("bundle_not_found", f"does not hold {', '.join(missing)}", where=item.url)


def _registries(places: Mapping[str, str], fetcher: Fetcher) -> dict[str, Registry]:
    """Host in an image's name -> where it is asked for."""
    return {REGISTRY: Registry(places["registry"], fetcher), DOCKER: Registry(places["docker"], fetcher)}


def _look_up(names: Iterable[str], registries: dict[str, Registry], arch: str) -> list[tuple[Registry, Resolved]]:
    """All images, each with its registry, or one DevenvError that names every one that is missing."""
    found, missing = [], []
    for name in names:
        try:
            registry = registries[name.partition("/")[0]]
            found.append((registry, registry.resolve(name, arch)))
        except DevenvError as error:
            if error.reason.id != "bundle_image_missing":
                raise
            missing.append(str(error))
    if missing:
        raise DevenvError("bundle_image_missing", "; ".join(missing))
    return found


def _images(found: list[tuple[Registry, Resolved]], folder: Path, progress: Progress) -> tuple[list[File], list[Image]]:
    files, rows = [], []
    for registry, image in found:
        path = f"images/{short(image.name)}.tar"
        progress(f"{image.name}: fetching")
        digest = registry.fetch(image, folder / path)
        files.append(describe(folder, path, image.name.rpartition(":")[2], f"{registry.base} {digest}"))
        rows.append(Image(image.name, digest, path))
    return files, rows


def short(name: str) -> str:
    """``registry.k8s.io/coredns/coredns:v1`` -> ``coredns``."""
    return name.rpartition(":")[0].rpartition("/")[2]


def _programs_of_images(expected: Collection[str], found: list[Image], folder: Path) -> list[File]:
    """Extract programs that are published inside images only, or that would be fetched twice. ``expected`` has the
    short names of the images that hold them.
    """
    rows = []
    for program, (image, path) in images.PROGRAMS.items():
        if image not in expected:
            continue
        source = next((one for one in found if short(one.name) == image), None)
        if source is None:
            raise DevenvError("bundle_image_missing", f"no image {image} was asked for, which holds {program}")
        target = folder / "bin" / program
        oci.extract(folder / source.path, path, target)
        target.chmod(0o755)
        version = source.name.rpartition(":")[2].removeprefix("v")
        rows.append(describe(folder, f"bin/{program}", version, f"{source.name} {source.digest} /{path}"))
    return rows
