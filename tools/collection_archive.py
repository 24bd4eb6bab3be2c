"""Build the collection's archive and install it where nothing of the checkout is in reach."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = ("devenv", "lab")


def program(name: str) -> str:
    """The path of a program of the running interpreter's environment."""
    return str(Path(sys.executable).with_name(name))


def plain_environment(home: Path, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``base`` without settings of Ansible and with a home of its own."""
    kept = {
        k: v for k, v in base.items() if not k.startswith(("ANSIBLE_", "DEVENV_", "XDG_")) and k != "PYTHONUNBUFFERED"
    }
    return {**kept, "HOME": str(home)}


def build(into: Path) -> Path:
    """Build the archive into the folder ``into`` and return its path. Raises CalledProcessError."""
    argv = [program("ansible-galaxy"), "collection", "build", "--force", "--output-path", str(into), str(ROOT)]
    subprocess.run(argv, cwd=into, env=plain_environment(into), check=True, stdout=subprocess.DEVNULL)
    (archive,) = into.glob(f"{'-'.join(NAME)}-*.tar.gz")
    return archive


def install(archive: Path, tree: Path) -> Path:
    """Install the archive without network into ``tree``; return the collection's folder. Raises CalledProcessError."""
    argv = [program("ansible-galaxy"), "collection", "install", "--offline", "--force", "-p", str(tree), str(archive)]
    # From elsewhere: in the checkout Ansible would see the collection already there.
    subprocess.run(argv, cwd=tree, env=plain_environment(tree), check=True, stdout=subprocess.DEVNULL)
    return tree.joinpath("ansible_collections", *NAME)
