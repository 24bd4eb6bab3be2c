"""Build the collection's archive and install it outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = ("devenv", "lab")


def program(name: str) -> str:
    """Return the path of a program next to the running interpreter."""
    return str(Path(sys.executable).with_name(name))


def plain_environment(home: Path, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return ``base`` without settings of Ansible and devenv, with the home folder ``home``."""
    ignored = ("ANSIBLE_", "DEVENV_", "XDG_", "PYTHONUNBUFFERED")
    kept = {name: value for name, value in base.items() if not name.startswith(ignored)}
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
    # In another folder: in the checkout, Ansible would find the collection installed already.
    subprocess.run(argv, cwd=tree, env=plain_environment(tree), check=True, stdout=subprocess.DEVNULL)
    return tree.joinpath("ansible_collections", *NAME)
