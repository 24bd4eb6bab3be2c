"""Where the data of nodes can have a limit: on btrfs with quotas.

Other filesystems limit a directory only with project quotas, which devenv does not use (docs/design/providers.md).
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
SYSFS = Path("/sys/fs/btrfs")
TYPE, PROGRAM, PACKAGE = "btrfs", "btrfs", "btrfs-progs"


@dataclass(frozen=True)
class Mount:
    """A mounted filesystem."""

    point: Path
    type: str
    device: str


def missing(folder: Path) -> str:
    """Return why a directory in ``folder`` (which need not exist) cannot have a limit; empty if it can. Needs no root.

    Quotas count for the whole filesystem and slow it down, so they are the user's to enable.
    """
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    mount = mount_of(Path(os.path.realpath(existing)))
    if mount.type != TYPE:
        return f"{folder} is on {mount.type}, and only btrfs with quotas limits a directory"
    if not _quotas_are_on(mount.device):
        return f"quotas of the btrfs on {mount.point} are off (to enable them: btrfs quota enable {mount.point})"
    if shutil.which(PROGRAM) is None:
        return f"the program {PROGRAM} is missing (apt-get install -y --no-install-recommends {PACKAGE})"
    return ""


def mount_of(path: Path) -> Mount:
    """Return the mount that has the real path ``path`` (proc_pid_mountinfo(5)); the last of several at one place."""
    best = Mount(Path("/"), "an unknown filesystem", "")
    for line in MOUNTS.read_text().splitlines():
        before, after = line.split(" - ", 1)
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4]))
        if point in (path, *path.parents) and len(point.parts) >= len(best.point.parts):
            best = Mount(point, *after.split()[:2])
    return best


def _quotas_are_on(device: str) -> bool:
    """Return whether the btrfs on ``device`` has quotas: the kernel shows its folder ``qgroups`` as long as it has."""
    name = Path(os.path.realpath(device)).name
    return any((entry.parent.parent / "qgroups").is_dir() for entry in SYSFS.glob(f"*/devices/{name}"))
