"""The bundle's `manifest.json`: every file with sha256, size, version and origin, and the images by name and digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

NAME = "manifest.json"
FORMAT = 1
_HEX = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(r"[0-9A-Za-z][0-9A-Za-z.]*-[0-9a-f]{12}")


@dataclass(frozen=True)
class File:
    """One file: ``path`` in the bundle, ``size`` in bytes, ``origin`` a URL, a Go package or what it was made of.

    ``inputs`` is the digest of all that decided the content of a program built here, empty for others; ``part`` the
    optional part of the bundle that the file belongs to, empty for what every bundle has.
    """

    path: str
    sha256: str
    size: int
    version: str
    origin: str
    inputs: str = ""
    part: str = ""


@dataclass(frozen=True)
class Image:
    """One image: full ``name`` with tag, ``digest`` (``sha256:...``) of its manifest, ``path`` of its archive."""

    name: str
    digest: str
    path: str


@dataclass(frozen=True)
class Manifest:
    """Content of a bundle. ``inputs`` is the digest of what it was made from, ``packages`` Debian's in our images."""

    kubernetes: str
    arch: str
    source: str
    inputs: str
    created: str
    files: tuple[File, ...]
    images: tuple[Image, ...]
    packages: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of the bundle's folder."""
        return f"{self.kubernetes}-{self.inputs}"

    @property
    def parts(self) -> frozenset[str]:
        """The optional parts that the bundle has."""
        return frozenset(file.part for file in self.files if file.part)

    def images_of(self, parts: Collection[str]) -> list[Image]:
        """Images of these parts; the part ``""`` is what every bundle has."""
        paths = {file.path for file in self.files if file.part in parts}
        return [image for image in self.images if image.path in paths]

    @property
    def digest(self) -> str:
        """sha256 (hex) of what every bundle holds: it stays when an optional part is added. When and from where the
        files came makes no difference.
        """
        content = {
            "kubernetes": self.kubernetes,
            "arch": self.arch,
            "files": sorted((file.path, file.sha256) for file in self.files if not file.part),
            "images": sorted((image.name, image.digest) for image in self.images_of([""])),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def dump(self) -> str:
        """The manifest as text of `manifest.json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"


def parse(text: str | bytes, where: str) -> Manifest:
    """Read `manifest.json`. Raises DevenvError ``bundle_broken`` for anything but a manifest of this format."""
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r} is not {FORMAT}")
        manifest = Manifest(
            files=tuple(_file(one) for one in data["files"]),
            images=tuple(Image(str(one["name"]), str(one["digest"]), _inside(one["path"])) for one in data["images"]),
            packages={str(key): str(value) for key, value in data["packages"].items()},
            **{key: str(data[key]) for key in ("kubernetes", "arch", "source", "inputs", "created")},
        )
        if not _FOLDER.fullmatch(manifest.folder):
            raise ValueError(f"{manifest.folder!r} is no name of a bundle")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DevenvError("bundle_broken", f"no manifest of a bundle ({error})", where=where) from None
    return manifest


def load(folder: Path) -> Manifest:
    """Manifest of the bundle in ``folder``. Raises DevenvError ``bundle_broken``."""
    file = folder / NAME
    try:
        text = file.read_bytes()
    except OSError as error:
        raise DevenvError("bundle_broken", f"cannot be read: {error.strerror}", where=str(file)) from None
    return parse(text, str(file))


def describe(folder: Path, path: str, version: str, origin: str) -> File:
    """The manifest's row of ``folder/path``, hashed."""
    file = folder / path
    return File(path, sha256(file), file.stat().st_size, version, origin)


def sha256(file: Path) -> str:
    """sha256 of a file's content, hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _file(data: Any) -> File:
    if not _HEX.fullmatch(data["sha256"]):
        raise ValueError(f"{data['sha256']!r} is no sha256")
    texts = (str(data["version"]), str(data["origin"]), str(data.get("inputs", "")), str(data.get("part", "")))
    return File(_inside(data["path"]), data["sha256"], int(data["size"]), *texts)


def _inside(path: Any) -> str:
    """``path`` when it stays inside the bundle: an archive from elsewhere must not name files outside."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"{path!r} leads out of the bundle")
    return str(PurePosixPath(path))
