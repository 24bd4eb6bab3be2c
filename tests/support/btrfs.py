"""A btrfs of a test's own, in a file."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


def run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[Path]:
    """The mount point of a new btrfs with ``size`` bytes, without quotas. Its file is sparse."""
    image, place = folder / "image", folder / "btrfs"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    run("mkfs.btrfs", "--quiet", str(image))
    run("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        run("umount", str(place))
        image.unlink()


def limits(place: Path) -> list[str]:
    """Return the limits of subvolumes in bytes, without the filesystem's own group."""
    run("btrfs", "filesystem", "sync", str(place))
    rows = [line.split() for line in run("btrfs", "qgroup", "show", "-re", "--raw", str(place)).splitlines()[2:]]
    return [row[3] for row in rows if row[0] != "0/5"]
