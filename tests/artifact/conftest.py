"""The built archive and wheel, and environments in which nothing of the checkout is in reach."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import collection_archive
import pytest
from support import installed

ROOT = collection_archive.ROOT


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection's archive."""
    return collection_archive.build(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def collection(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the collection, installed from the archive without network."""
    return collection_archive.install(archive, tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    installed.distributions(folder)
    return folder


@pytest.fixture(scope="session")
def compat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel devenv-lab-compat, made from its source distribution."""
    return installed.distributions(tmp_path_factory.mktemp("compat"), ROOT / "compat")


@pytest.fixture(scope="session")
def collection_only(tmp_path_factory: pytest.TempPathFactory) -> installed.Elsewhere:
    """What someone has who installs the collection alone: requirements.txt."""
    return installed.elsewhere(
        tmp_path_factory.mktemp("collection-only"), "--requirement", str(ROOT / "requirements.txt")
    )


@pytest.fixture(scope="session")
def package(dist: Path, compat: Path, tmp_path_factory: pytest.TempPathFactory) -> installed.Elsewhere:
    """What someone has who installs both wheels, to test with them."""
    (wheel,) = dist.glob("*.whl")
    return installed.elsewhere(tmp_path_factory.mktemp("package"), f"{wheel}[test]", str(compat))


@pytest.fixture(scope="session")
def committed() -> Callable[..., set[str]]:
    """``committed("roles", ...)`` gives the paths of all files (no links) of these folders that the project has."""

    def listed(*folders: str) -> set[str]:
        argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
        names = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        return {name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()}

    return listed
