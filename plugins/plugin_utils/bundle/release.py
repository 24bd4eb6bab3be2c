"""The source `release`: official binaries and images, or a mirror of them, verified by their published sha256."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import debian, images, oci
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.download import Fetcher, checksum
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.downloads import Item, items
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import Content, File, Image, describe
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.registry import Registry, Resolved
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Progress
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import BASE, DOCKER, REGISTRY, Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

DOWNLOADS = ".downloads"
_PROBE_PACKAGES = ("busybox-static", "ca-certificates", "catatonit", "curl", "netbase")


def check_places(versions: Versions, places: Mapping[str, str], arch: str, parts: Collection[str]) -> None:
    """Check quickly that all places of ``parts`` answer. Raises the DevenvError of the first that does not."""
    quick = Fetcher(Path("/nonexistent"), attempts=1, timeout=(4, 6))
    registries = _registries(places, quick)
    sums = {item.place: item.sums for item in items(versions, places, arch) if item.part in parts}.values()
    with concurrent.futures.ThreadPoolExecutor(len(sums) + len(registries)) as pool:
        checks = [pool.submit(registry.reach) for registry in registries.values()]
        texts = [pool.submit(quick.text, url) for url in sums]
    for check in checks:
        check.result()
    for text in texts:
        text.result()


def fetch(
    versions: Versions, places: Mapping[str, str], folder: Path, base: Path, arch: str, progress: Progress,
    parts: Collection[str] = (BASE,),
) -> Content:  # fmt: skip
    """Put ``parts`` into ``folder``; downloads stay in ``base/.downloads`` until everything has been fetched."""
    keep = base / DOWNLOADS
    fetcher = Fetcher(keep, progress)
    for name in ("bin", "cni", "images"):
        (folder / name).mkdir()
    registries = _registries(places, fetcher)
    chosen = {part: [item for item in items(versions, places, arch) if item.part == part] for part in parts}
    names = {part: list(versions.images_of(part).values()) for part in parts}
    content = Content()
    if BASE in parts:
        kubeadm = chosen[BASE].pop(0)
        content.add(BASE, _fetch(kubeadm, fetcher, folder, progress))
        names[BASE] = images.required_by(folder / kubeadm.target, versions.kubernetes)
    # Missing images, of whatever part, are reported before gigabytes are fetched in vain.
    resolved = _resolve([name for part in parts for name in names[part]], registries, arch)
    for part in parts:
        for item in chosen[part]:
            content.add(part, _fetch(item, fetcher, folder, progress))
        of_part = [(registry, image) for registry, image in resolved if image.name in names[part]]
        files, fetched = _images(of_part, folder, progress)
        files += _programs_of_images(versions.images_of(part), fetched, folder)
        content.add(part, files, fetched)
    if BASE in parts:
        # The probe image is not published.
        with tempfile.TemporaryDirectory(prefix=".debian-", dir=folder) as scratch:
            root = debian.unpack(versions.debian, Path(scratch), progress, _PROBE_PACKAGES)
            content.add(BASE, *images.build(["probe"], folder, versions, root, arch, progress))
        content.packages.update(root.packages)
    shutil.rmtree(keep, ignore_errors=True)
    return content


def _fetch(item: Item, fetcher: Fetcher, folder: Path, progress: Progress) -> list[File]:
    progress(f"{item.name}: fetching")
    digest = checksum(fetcher.text(item.sums), item.name, item.sums)
    file = fetcher.file(item.url, digest, label=item.name)
    if item.target:
        os.link(file, folder / item.target)
    else:
        _unpack(file, item, folder)
    targets = [item.target] if item.target else list(item.members.values())
    for target in targets:
        (folder / target).chmod(0o755)
    return [describe(folder, target, item.version, item.url) for target in targets]


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
        raise DevenvError("bundle_not_found", f"is not a tar archive: {error}", where=item.url) from None
    if missing:
        raise DevenvError("bundle_not_found", f"does not contain {', '.join(missing)}", where=item.url)


def _registries(places: Mapping[str, str], fetcher: Fetcher) -> dict[str, Registry]:
    """Map the host in an image's name to its registry."""
    return {REGISTRY: Registry(places["registry"], fetcher), DOCKER: Registry(places["docker"], fetcher)}


def _resolve(names: Iterable[str], registries: dict[str, Registry], arch: str) -> list[tuple[Registry, Resolved]]:
    """Return all images with their registries. Raises one DevenvError that names every missing image."""
    resolved, missing = [], []
    for name in names:
        try:
            registry = registries[name.partition("/")[0]]
            resolved.append((registry, registry.resolve(name, arch)))
        except DevenvError as error:
            if error.reason.id != "bundle_image_missing":
                raise
            missing.append(str(error))
    if missing:
        raise DevenvError("bundle_image_missing", "; ".join(missing))
    return resolved


def _images(
    resolved: list[tuple[Registry, Resolved]], folder: Path, progress: Progress
) -> tuple[list[File], list[Image]]:
    files, rows = [], []
    for registry, image in resolved:
        path = f"images/{short(image.name)}.tar"
        progress(f"{image.name}: fetching")
        digest = registry.fetch(image, folder / path)
        files.append(describe(folder, path, image.name.rpartition(":")[2], f"{registry.base} {digest}"))
        rows.append(Image(image.name, digest, path))
    return files, rows


def short(name: str) -> str:
    """``registry.k8s.io/coredns/coredns:v1`` -> ``coredns``."""
    return name.rpartition(":")[0].rpartition("/")[2]


def _programs_of_images(expected: Collection[str], fetched: list[Image], folder: Path) -> list[File]:
    """Extract programs that are only published inside images, or would be fetched twice, from those ``expected``."""
    rows = []
    by_name = {short(image.name): image for image in fetched}
    programs = {program: (name, path) for name in expected for program, path in images.programs_in(name).items()}
    for program, (name, path) in programs.items():
        if name not in by_name:
            raise DevenvError("bundle_image_missing", f"kubeadm lists no image {name}, which contains {program}")
        image, target = by_name[name], folder / "bin" / program
        oci.extract(folder / image.path, path, target)
        target.chmod(0o755)
        version = image.name.rpartition(":")[2].removeprefix("v")
        rows.append(describe(folder, f"bin/{program}", version, f"{image.name} {image.digest} /{path}"))
    return rows
