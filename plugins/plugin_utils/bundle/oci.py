"""Container images without a container engine: written as archives, deterministic to the byte, and read again.

An archive is a tar that is both an OCI image layout (https://github.com/opencontainers/image-spec, image-layout.md) and
what `docker save` writes (`manifest.json`), so containerd, podman and docker all take it.
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
from typing import Any

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
    """A path of a layer (no leading slash): a file of ``source`` or ``data``, a link to ``link``, else a folder."""

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
    """Content of an image: digest as ``sha256:<hex>``, size in bytes, and the file it is in, or its bytes."""

    digest: str
    size: int
    source: Path | bytes

    @classmethod
    def of(cls, content: bytes) -> Blob:
        return cls("sha256:" + hashlib.sha256(content).hexdigest(), len(content), content)


def build(spec: Spec, target: Path, arch: str) -> str:
    """Write the image ``spec`` to the archive ``target``; returns the digest of its manifest."""
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
    """Write an uncompressed layer: sorted, owned by root, all times 0; folders above the entries are added."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for entry in _with_parents(entries):
            _add(tar, entry)
    return Blob("sha256:" + sha256(target), target.stat().st_size, target)


def write_archive(
    name: str, manifest: Blob, media_type: str, config: Blob, layers: Sequence[Blob], target: Path
) -> str:
    """Write blobs that exist as one archive named ``name``; returns the manifest's digest.

    The annotation ``io.containerd.image.name`` is what containerd's importer names the image by; ``manifest.json`` is
    docker's and podman's.
    """
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {
                **_descriptor(media_type, manifest),
                "annotations": {
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                },
            }
        ],
    }
    legacy = [{"Config": _blob_path(config), "RepoTags": [name], "Layers": [_blob_path(one) for one in layers]}]
    blobs = {blob.digest: blob for blob in (manifest, config, *layers)}
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, Entry("oci-layout", 0o644, data=_json({"imageLayoutVersion": "1.0.0"})))
        _add(tar, Entry("index.json", 0o644, data=_json(index)))
        _add(tar, Entry("manifest.json", 0o644, data=_json(legacy)))
        _add(tar, Entry("blobs"))
        _add(tar, Entry("blobs/sha256"))
        for _ignored, blob in sorted(blobs.items()):
            content = {"source": blob.source} if isinstance(blob.source, Path) else {"data": blob.source}
            _add(tar, Entry(_blob_path(blob), 0o644, **content))
    return manifest.digest


@dataclass(frozen=True)
class Stored:
    """An image found in an archive; ``layers`` are digests, the lowest first."""

    name: str
    digest: str
    config: str
    layers: tuple[str, ...]


def read(archive: Path) -> list[Stored]:
    """Images of an OCI archive. Raises DevenvError ``bundle_broken`` when it is none."""
    try:
        with tarfile.open(archive, "r:") as tar:
            index = json.loads(_content(tar, "index.json"))
            found = []
            for one in index["manifests"]:
                manifest = json.loads(_content(tar, _digest_path(one["digest"])))
                name = one.get("annotations", {}).get("io.containerd.image.name", "")
                layers = tuple(str(layer["digest"]) for layer in manifest["layers"])
                found.append(Stored(name, str(one["digest"]), str(manifest["config"]["digest"]), layers))
            return found
    except (tarfile.TarError, KeyError, ValueError, OSError) as error:
        raise DevenvError("bundle_broken", f"is no OCI image archive: {error}", where=str(archive)) from None


def extract(archive: Path, path: str, target: Path) -> None:
    """Copy the regular file ``path`` out of an archive's only image; the uppermost layer that has it wins.

    Raises DevenvError ``bundle_image_content`` when no layer has it.
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
    """Copy ``path`` out of one layer; False when the layer has it not."""
    blob = outer.extractfile(_digest_path(digest))
    if blob is None:
        raise AssertionError("blob")
    # A stream reader finds out by itself whether the layer is compressed.
    with tarfile.open(fileobj=blob, mode="r|*") as layer:
        for member in layer:
            if member.isreg() and str(PurePosixPath(member.name.lstrip("/"))) == path:
                content = layer.extractfile(member)
                if content is None:
                    raise AssertionError("content")
                with target.open("wb") as stream:
                    shutil.copyfileobj(content, stream, _COPY)
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


def _blob_path(blob: Blob) -> str:
    return _digest_path(blob.digest)


def _digest_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _content(tar: tarfile.TarFile, path: str) -> bytes:
    stream = tar.extractfile(path)
    if stream is None:
        raise KeyError(path)
    return stream.read()


def _json(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
