"""The built archive and wheel, and environments in which nothing of the checkout is in reach."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import collection_archive
import pytest

ROOT = collection_archive.ROOT


@dataclass(frozen=True)
class Elsewhere:
    """A virtual environment of its own with a home of its own; programs start in /."""

    venv: Path
    home: Path

    def run(self, *argv: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment; fails the test when it does not end with ``code``."""
        env = collection_archive.plain_environment(self.home) | {
            "PATH": f"{self.venv}/bin:{os.environ['PATH']}",
            **variables,
        }
        done = subprocess.run(
            [str(self.venv / "bin" / argv[0]), *argv[1:]],
            cwd="/",
            env=env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, f"{' '.join(argv)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


def elsewhere(folder: Path, *wanted: str) -> Elsewhere:
    """A new virtual environment below ``folder`` with what pip installs by ``wanted``."""
    made = Elsewhere(folder / "venv", folder / "home")
    made.home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(made.venv)], check=True)
    # Downloads are kept with everyone else's; a home of its own would fetch all of them again.
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    made.run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted, PIP_CACHE_DIR=cache)
    return made


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
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def collection_only(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """What someone has who installs the collection alone: requirements.txt."""
    return elsewhere(tmp_path_factory.mktemp("collection-only"), "--requirement", str(ROOT / "requirements.txt"))


@pytest.fixture(scope="session")
def package(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """What someone has who installs the wheel, to test with it."""
    (wheel,) = dist.glob("*.whl")
    return elsewhere(tmp_path_factory.mktemp("package"), f"{wheel}[test]")


@pytest.fixture(scope="session")
def committed() -> Callable[..., set[str]]:
    """``committed("roles", ...)`` gives the paths of all files (no links) of these folders that the project has."""

    def listed(*folders: str) -> set[str]:
        argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
        names = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        return {name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()}

    return listed
