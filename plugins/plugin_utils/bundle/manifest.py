"""The bundle's `manifest.json`: every file with sha256, size, version and origin, and the images by name and digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

NAME = "manifest.json"
FORMAT = 1
_HEX = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(r"[0-9A-Za-z][0-9A-Za-z.]*-[0-9a-f]{12}")


@dataclass(frozen=True)
class File:
    """One file: ``path`` in the bundle, ``size`` in bytes, ``origin`` a URL, a Go package or a list of ingredients.

    ``inputs`` is the digest of everything that determines a program built here, empty for other files. ``part`` is the
    optional part of the bundle that the file belongs to, empty for the base.
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
class Content:
    """Files, images and Debian packages (name to version) that a source puts into a bundle."""

    files: list[File] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)

    def add(self, part: str, files: Iterable[File], images: Iterable[Image] = ()) -> None:
        """Add ``files`` and ``images`` as belonging to ``part``."""
        self.files.extend(replace(file, part=part) for file in files)
        self.images.extend(images)


@dataclass(frozen=True)
class Manifest:
    """Content of a bundle. ``inputs`` is the digest of its inputs; ``packages`` lists Debian packages in the images."""

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
        """Images of these parts; the part ``""`` is the base."""
        paths = {file.path for file in self.files if file.part in parts}
        return [image for image in self.images if image.path in paths]

    @property
    def digest(self) -> str:
        """sha256 (hex) of the base; does not depend on optional parts, the time or the source."""
        content = {
            "kubernetes": self.kubernetes,
            "arch": self.arch,
            "files": sorted((file.path, file.sha256) for file in self.files if not file.part),
            "images": sorted((image.name, image.digest) for image in self.images_of([""])),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def dump(self) -> str:
        """Return the text of `manifest.json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"


def parse(text: str | bytes, where: str) -> Manifest:
    """Read `manifest.json`. Raises DevenvError ``bundle_broken`` for anything but a manifest of this format."""
    try:
        data = json.loads(text)
        if (version := data.pop("format")) != FORMAT:
            raise ValueError(f"format {version!r} is not {FORMAT}")
        files = tuple(File(**row) for row in data.pop("files"))
        images = tuple(Image(**row) for row in data.pop("images"))
        manifest = Manifest(**data | {"files": files, "images": images, "packages": {**data["packages"]}})
        _check(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DevenvError("bundle_broken", f"not a manifest of a bundle ({error})", where=where) from None
    return manifest


def load(folder: Path) -> Manifest:
    """Return the manifest of the bundle in ``folder``. Raises DevenvError ``bundle_broken``."""
    file = folder / NAME
    try:
        text = file.read_bytes()
    except OSError as error:
        raise DevenvError("bundle_broken", f"cannot be read: {error.strerror}", where=str(file)) from None
    return parse(text, str(file))


def describe(folder: Path, path: str, version: str, origin: str) -> File:
    """Hash ``folder/path`` and return its row of the manifest."""
    file = folder / path
    return File(path, sha256(file), file.stat().st_size, version, origin)


def sha256(file: Path) -> str:
    """Return the sha256 (hex) of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check(manifest: Manifest) -> None:
    """Raise ValueError for unsafe names: an archive from elsewhere must not write outside its bundle."""
    if not _FOLDER.fullmatch(manifest.folder):
        raise ValueError(f"{manifest.folder!r} is not a valid name of a bundle")
    for path in (*(file.path for file in manifest.files), *(image.path for image in manifest.images)):
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise ValueError(f"{path!r} is outside the bundle")
    for file in manifest.files:
        if not _HEX.fullmatch(file.sha256):
            raise ValueError(f"{file.sha256!r} is not a sha256")
