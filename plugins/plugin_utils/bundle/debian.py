"""Programs from Debian packages for images: unpacked by mmdebstrap, then only what is needed, with its libraries."""

from __future__ import annotations

import re
import shutil
import struct
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
_NETWORK = r"Could not (resolve|connect)|Failed to fetch|Connection (timed out|refused|failed)|Temporary failure"


@dataclass(frozen=True)
class Root:
    """Unpacked packages in ``path``; ``packages`` maps name to version."""

    path: Path
    packages: dict[str, str]


def unpack(suite: str, folder: Path, progress: Progress, packages: Sequence[str] = PACKAGES) -> Root:
    """Unpack ``packages`` of Debian ``suite`` and all they depend on below ``folder`` (nothing is configured).

    Signatures are checked by apt. Raises DevenvError ``bundle_program_missing``, ``bundle_unreachable`` or
    ``bundle_debian``.
    """
    if not shutil.which("mmdebstrap"):
        raise DevenvError("bundle_program_missing", "mmdebstrap is not installed")
    progress(f"images: fetching Debian packages ({', '.join(packages)})")
    archive = folder / "debian.tar"
    argv = [
        "mmdebstrap", "--variant=extract", "--include=" + ",".join(packages),
        # The names of the archives carry the versions; dpkg's own list is empty as nothing is installed.
        f'--extract-hook=ls "$1/var/cache/apt/archives" > "$1/{_LIST}"',
        suite, str(archive),
    ]  # fmt: skip
    try:
        programs.stream(argv, timeout=1800)
    except ProgramFailed as error:
        raise _failure(error) from None
    root = folder / "debian"
    with tarfile.open(archive) as tar:
        members = [one for one in tar if one.isreg() or one.isdir() or one.issym() or one.islnk()]
        tar.extractall(root, members, filter="tar")
    archive.unlink()
    return Root(root, versions((root / _LIST).read_text(encoding="utf-8").split()))


def versions(archives: Iterable[str]) -> dict[str, str]:
    """Package versions by names of `.deb` files (``name_version_arch.deb``, the version percent-encoded)."""
    parts = [name.removesuffix(".deb").split("_") for name in archives if name.endswith(".deb")]
    return {part[0]: urllib.parse.unquote(part[1]) for part in sorted(parts)}


def files(root: Root, paths: Iterable[str]) -> list[Entry]:
    """Layer entries of files of the root, at their own places, with every shared library that they need."""
    wanted = list(paths)
    entries = {path: Entry(path, _mode(_real(root.path, path)), source=_real(root.path, path)) for path in wanted}
    for path in wanted:
        for library in libraries(root, path):
            entries[library] = Entry(library, source=_real(root.path, library))
    return list(entries.values())


def libraries(root: Root, path: str) -> list[str]:
    """Shared libraries of a program or library of the root, the loader last; none for what is static or no ELF file.

    The root's own loader lists them, which also checks that none is missing.
    """
    file = _real(root.path, path)
    if not _dynamic(file):
        return []
    loader = next(
        iter(sorted(root.path.glob("lib/*/ld-linux-*.so.*")) or sorted(root.path.glob("lib/ld-linux-*.so.*")))
    )
    places = sorted({str(one.parent) for one in root.path.glob("**/lib*.so.*") if "lib/" in f"{one.parent}/"})
    argv = [str(loader), "--inhibit-cache", "--library-path", ":".join(places), "--list", str(file)]
    try:
        lines = program.run(argv, timeout=60).stdout.splitlines()
    except ProgramFailed as error:
        raise DevenvError("bundle_debian", f"libraries of /{path}: {error.stderr.strip()[-300:]}") from None
    needed = [match.groups() for line in lines if (match := re.match(r"\s*(\S+) => (.+?)(?: \(0x\w+\))?$", line))]
    # The loader looks into the host's own places last: what is found there is missing in the root too.
    missing = [name for name, place in needed if "ld-linux" not in name and not Path(place).is_relative_to(root.path)]
    if missing:
        raise DevenvError("bundle_debian", f"/{path} needs {', '.join(missing)}, which no package brought")
    inside = [str(Path(place).relative_to(root.path)) for name, place in needed if "ld-linux" not in name]
    return [*inside, *_loader_place(root, inside)]


def certificates(root: Root) -> bytes:
    """The CA certificates as one PEM file, as ca-certificates' own configuration step would write it."""
    folder = root.path / "usr/share/ca-certificates"
    return b"".join(file.read_bytes().rstrip(b"\n") + b"\n" for file in sorted(folder.rglob("*.crt")))


def _dynamic(file: Path) -> bool:
    """Whether a file is a 64-bit little-endian ELF object (elf(5)) that is linked dynamically."""
    header = struct.Struct("<16s2HI3QI6H")
    with file.open("rb") as stream:
        start = stream.read(header.size)
        if len(start) < header.size or start[:6] != b"\x7fELF\x02\x01":
            return False
        fields = header.unpack(start)
        offset, size, count = fields[5], fields[9], fields[10]
        stream.seek(offset)
        table = stream.read(size * count)
    dynamic = 2
    return any(struct.unpack_from("<I", table, at)[0] == dynamic for at in range(0, len(table), size))


def _loader_place(root: Root, inside: Sequence[str]) -> list[str]:
    """Where programs look for the loader (their interpreter): a link of libc6 in /lib64 or /lib."""
    if not inside:
        return []
    places = [*root.path.glob("lib64/ld-linux-*.so.*"), *root.path.glob("lib/ld-linux-*.so.*")]
    return [str(place.relative_to(root.path)) for place in places]


def _real(root: Path, path: str) -> Path:
    """The file behind ``path`` with links followed inside the root."""
    current = root / path
    for _ignored in range(20):
        if not current.is_symlink():
            return current
        link = current.readlink()
        current = root / str(link).lstrip("/") if link.is_absolute() else current.parent / link
    raise DevenvError("bundle_debian", f"/{path} is a loop of links")


def _mode(file: Path) -> int:
    return 0o755 if file.stat().st_mode & 0o111 else 0o644


def _failure(error: ProgramFailed) -> DevenvError:
    if "No space left on device" in error.stderr:
        return DevenvError("bundle_disk_full", "mmdebstrap: no space left on the disk")
    lines = [line for line in error.stderr.splitlines() if line.startswith(("E:", "W:")) or "rror" in line]
    reason = "bundle_unreachable" if re.search(_NETWORK, error.stderr) else "bundle_debian"
    return DevenvError(reason, f"mmdebstrap: {' / '.join(lines[-3:])[:600] or 'failed without a word'}")
