"""Directories with a limit: subvolumes of btrfs (https://btrfs.readthedocs.io/en/latest/Qgroups.html)."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.checks import quotas

# Inode of the root directory of every subvolume.
_INODE = 256


def create(folder: Path, size: int) -> None:
    """Create an empty directory that can hold ``size`` bytes. Raises ProgramFailed."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    program.run([quotas.PROGRAM, "subvolume", "create", str(folder)])
    folder.chmod(0o700)
    program.run([quotas.PROGRAM, "qgroup", "limit", str(size), str(folder)])


def is_limited(folder: Path) -> bool:
    """Return whether ``folder`` was made by `create`."""
    try:
        return folder.stat().st_ino == _INODE and quotas.mount_of(folder.resolve()).type == quotas.TYPE
    except OSError:
        return False


def remove(folder: Path) -> None:
    """Remove a directory, if it exists, with its limit."""
    number = ""
    if is_limited(folder) and shutil.which(quotas.PROGRAM):
        number = program.run([quotas.PROGRAM, "inspect-internal", "rootid", str(folder)], check=False).stdout.strip()
    # A subvolume may contain others, which the program does not delete with it.
    shutil.rmtree(folder, ignore_errors=True)
    if number and not folder.exists():
        # Linux 6.10 and newer refuse this and remove the limit later on their own.
        program.run([quotas.PROGRAM, "qgroup", "destroy", f"0/{number}", str(folder.parent)], check=False)
