"""Take programs and files out of Debian packages, with the libraries that they need."""

from __future__ import annotations

import re
import shutil
import tarfile
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import programs
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.oci import Entry
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Progress
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed

PACKAGES = (
    "busybox-static", "ca-certificates", "catatonit", "conntrack", "curl", "iptables", "netbase", "nftables",
)  # fmt: skip
_LIST = "devenv-packages"
_LOADER = "ld-linux*.so.*"


@dataclass(frozen=True)
class Root:
    """Unpacked packages in ``path``; ``packages`` maps name to version."""

    path: Path
    packages: dict[str, str]


def unpack(suite: str, folder: Path, progress: Progress, packages: Sequence[str] = PACKAGES) -> Root:
    """Unpack ``packages`` of Debian ``suite`` and their dependencies below ``folder``, without configuring them.

    apt verifies the signatures. Raises DevenvError ``bundle_program_missing``, ``bundle_unreachable`` or
    ``bundle_debian``.
    """
    if not shutil.which("mmdebstrap"):
        raise DevenvError("bundle_program_missing", "mmdebstrap is not installed")
    progress(f"images: fetching Debian packages ({', '.join(packages)})")
    archive = folder / "debian.tar"
    argv = [
        "mmdebstrap", "--variant=extract", "--include=" + ",".join(packages),
        # The names of the archives contain the versions; dpkg's own list is empty, since nothing is installed.
        f'--extract-hook=ls "$1/var/cache/apt/archives" > "$1/{_LIST}"',
        suite, str(archive),
    ]  # fmt: skip
    try:
        programs.stream(argv, timeout=1800)
    except ProgramFailed as error:
        raise programs.failure("mmdebstrap", error, "bundle_debian") from None
    root = folder / "debian"
    with tarfile.open(archive) as tar:
        members = [member for member in tar if not member.isdev()]
        tar.extractall(root, members, filter="tar")
    archive.unlink()
    return Root(root, versions((root / _LIST).read_text(encoding="utf-8").split()))


def versions(archives: Iterable[str]) -> dict[str, str]:
    """Return package versions from names of `.deb` files (``name_version_arch.deb``, the version percent-encoded)."""
    parts = [name.split("_") for name in sorted(archives) if name.endswith(".deb")]
    return {part[0]: urllib.parse.unquote(part[1]) for part in parts}


def files(root: Root, paths: Sequence[str]) -> list[Entry]:
    """Return layer entries of files of the root at the same paths, with every shared library that they need."""
    entries = {}
    for path in paths:
        file = _real(root.path, path)
        entries[path] = Entry(path, 0o755 if file.stat().st_mode & 0o111 else 0o644, source=file)
        for library in libraries(root, path):
            entries[library] = Entry(library, source=_real(root.path, library))
    return list(entries.values())


def libraries(root: Root, path: str) -> list[str]:
    """Return the shared libraries of a program or library of the root, the loader last; none if it is not dynamic.

    The root's own loader lists them, as ldd does. Raises DevenvError ``bundle_debian`` if one is missing.
    """
    file = _real(root.path, path)
    loaders = [str(place) for folder in ("lib/*", "lib") for place in sorted(root.path.glob(f"{folder}/{_LOADER}"))]
    # 0: a program, 2: a library; else static or not an ELF file.
    if not loaders or program.run([loaders[0], "--verify", str(file)], check=False).code not in (0, 2):
        return []
    places = sorted({str(file.parent) for file in root.path.glob("**/lib*.so.*") if "lib/" in f"{file.parent}/"})
    argv = [loaders[0], "--inhibit-cache", "--library-path", ":".join(places), "--list", str(file)]
    try:
        lines = program.run(argv, timeout=60).stdout.splitlines()
    except ProgramFailed as error:
        raise DevenvError("bundle_debian", f"libraries of /{path}: {error.stderr.strip()[-300:]}") from None
    matches = (re.match(r"\s*(\S+) => (.+?)(?: \(0x\w+\))?$", line) for line in lines)
    needed = [(match[1], Path(match[2])) for match in matches if match and "ld-linux" not in match[1]]
    # The loader searches the host's own places last: a library from there is missing in the root too.
    if missing := [name for name, place in needed if not place.is_relative_to(root.path)]:
        raise DevenvError("bundle_debian", f"/{path} needs {', '.join(missing)}, which is in none of the packages")
    if not needed:
        return []
    # Programs expect the loader (their interpreter) in /lib64 or /lib, where libc6 has a link.
    interpreters = [place for folder in ("lib64", "lib") for place in root.path.glob(f"{folder}/{_LOADER}")]
    return [str(place.relative_to(root.path)) for place in (*(place for _name, place in needed), *interpreters)]


def certificates(root: Root) -> bytes:
    """Return the CA certificates as one PEM file, as the configuration step of ca-certificates would write it."""
    folder = root.path / "usr/share/ca-certificates"
    return b"".join(file.read_bytes().rstrip(b"\n") + b"\n" for file in sorted(folder.rglob("*.crt")))


def _real(root: Path, path: str) -> Path:
    """Return the file behind ``path``, with links followed inside the root."""
    current = root / path
    for _ignored in range(20):
        if not current.is_symlink():
            return current
        link = current.readlink()
        current = root / str(link).lstrip("/") if link.is_absolute() else current.parent / link
    raise DevenvError("bundle_debian", f"/{path} is a loop of links")
