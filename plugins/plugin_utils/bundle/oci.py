"""Write container images as archives, deterministic to the byte and without a container engine, and read them.

An archive is a tar that is both an OCI image layout (https://github.com/opencontainers/image-spec, image-layout.md) and
what `docker save` writes (`manifest.json`), so containerd, podman and docker can import it.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import sha256
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
_EPOCH = "1970-01-01T00:00:00Z"
_COPY = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A path of a layer (no leading slash): a file from ``source`` or ``data``, a link to ``link``, else a folder."""

    path: str
    mode: int = 0o755
    source: Path | None = None
    data: bytes | None = None
    link: str = ""


@dataclass(frozen=True)
class Spec:
    """An image of one layer. ``config`` is the image configuration's ``config`` object (Env, Entrypoint, Cmd, User)."""

    name: str
    entries: tuple[Entry, ...]
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Blob:
    """A part of an image: digest as ``sha256:<hex>``, size in bytes, and its file or its bytes."""

    digest: str
    size: int
    source: Path | bytes

    @classmethod
    def of(cls, content: bytes) -> Blob:
        return cls("sha256:" + hashlib.sha256(content).hexdigest(), len(content), content)


def build(spec: Spec, target: Path, arch: str) -> str:
    """Write the image ``spec`` to the archive ``target``; return the digest of its manifest."""
    with tempfile.TemporaryDirectory(prefix=".layer-", dir=target.parent) as scratch:
        layer = write_layer(spec.entries, Path(scratch) / "layer.tar")
        config = {
            "architecture": arch,
            "os": "linux",
            "created": _EPOCH,
            "config": spec.config,
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
            "history": [{"created": _EPOCH, "created_by": "devenv"}],
        }
        config_blob = Blob.of(_json(config))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config_blob),
            "layers": [_descriptor(LAYER, layer)],
        }
        return write_archive(spec.name, Blob.of(_json(manifest)), MANIFEST, config_blob, [layer], target)


def write_layer(entries: Iterable[Entry], target: Path) -> Blob:
    """Write an uncompressed layer: sorted, owned by root, all times 0, parent folders included."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for entry in _with_parents(entries):
            _add(tar, entry)
    return Blob("sha256:" + sha256(target), target.stat().st_size, target)


def write_archive(
    name: str, manifest: Blob, media_type: str, config: Blob, layers: Sequence[Blob], target: Path
) -> str:
    """Write the blobs of one image as an archive; return the manifest's digest.

    containerd's importer takes the image's name from the annotation ``io.containerd.image.name``, docker and podman
    from ``manifest.json``.
    """
    annotations = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    entry = {**_descriptor(media_type, manifest), "annotations": annotations}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    config_path, *layer_paths = (_blob_path(blob.digest) for blob in (config, *layers))
    legacy = [{"Config": config_path, "RepoTags": [name], "Layers": layer_paths}]
    blobs = {blob.digest: blob for blob in (manifest, config, *layers)}
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, Entry("oci-layout", 0o644, data=_json({"imageLayoutVersion": "1.0.0"})))
        _add(tar, Entry("index.json", 0o644, data=_json(index)))
        _add(tar, Entry("manifest.json", 0o644, data=_json(legacy)))
        _add(tar, Entry("blobs"))
        _add(tar, Entry("blobs/sha256"))
        for digest, blob in sorted(blobs.items()):
            content = {"source": blob.source} if isinstance(blob.source, Path) else {"data": blob.source}
            _add(tar, Entry(_blob_path(digest), 0o644, **content))
    return manifest.digest


@dataclass(frozen=True)
class Stored:
    """An image in an archive; ``layers`` are digests, the lowest first."""

    name: str
    digest: str
    config: str
    layers: tuple[str, ...]


def read(archive: Path) -> list[Stored]:
    """Return the images of an OCI archive. Raises DevenvError ``bundle_broken`` for anything else."""
    try:
        with tarfile.open(archive, "r:") as tar:
            images = []
            for entry in json.load(_open(tar, "index.json"))["manifests"]:
                manifest = json.load(_open(tar, _blob_path(entry["digest"])))
                name = entry.get("annotations", {}).get("io.containerd.image.name", "")
                layers = tuple(str(layer["digest"]) for layer in manifest["layers"])
                images.append(Stored(name, str(entry["digest"]), str(manifest["config"]["digest"]), layers))
            return images
    except (tarfile.TarError, KeyError, ValueError, OSError) as error:
        raise DevenvError("bundle_broken", f"is not an OCI image archive: {error}", where=str(archive)) from None


def extract(archive: Path, path: str, target: Path) -> None:
    """Copy the regular file ``path`` out of an archive's only image, from the uppermost layer that has it.

    Raises DevenvError ``bundle_image_content`` if no layer has it.
    """
    (image,) = read(archive)
    try:
        with tarfile.open(archive, "r:") as outer:
            for digest in reversed(image.layers):
                if _extract_from(outer, digest, path, target):
                    return
    except tarfile.TarError as error:
        what = f"a layer of {image.name} cannot be read: {error}"
        raise DevenvError("bundle_image_content", what, where=str(archive)) from None
    raise DevenvError("bundle_image_content", f"the image {image.name} has no file /{path}", where=str(archive))


def _extract_from(outer: tarfile.TarFile, digest: str, path: str, target: Path) -> bool:
    """Copy ``path`` out of one layer; return False if the layer does not have it."""
    # In stream mode, tarfile detects whether the layer is compressed.
    with tarfile.open(fileobj=_open(outer, _blob_path(digest)), mode="r|*") as layer:
        for member in layer:
            if member.isreg() and str(PurePosixPath(member.name.lstrip("/"))) == path:
                with target.open("wb") as stream:
                    shutil.copyfileobj(_open(layer, member), stream, _COPY)
                return True
    return False


def _with_parents(entries: Iterable[Entry]) -> list[Entry]:
    table = {entry.path: entry for entry in entries}
    for path in list(table):
        for parent in PurePosixPath(path).parents:
            if str(parent) != ".":
                table.setdefault(str(parent), Entry(str(parent)))
    return [entry for _ignored, entry in sorted(table.items())]


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    info = tarfile.TarInfo(entry.path)
    info.mode = entry.mode
    if entry.link:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
        tar.addfile(info)
    elif entry.source is not None:
        info.size = entry.source.stat().st_size
        with entry.source.open("rb") as stream:
            tar.addfile(info, stream)
    elif entry.data is not None:
        info.size = len(entry.data)
        tar.addfile(info, io.BytesIO(entry.data))
    else:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)


def _descriptor(media_type: str, blob: Blob) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _open(tar: tarfile.TarFile, member: str | tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    if stream is None:
        raise KeyError(member)
    return stream


def _json(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
