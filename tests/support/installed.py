"""Environments in which nothing of the checkout is in reach, and what is installed into them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import collection_archive


@dataclass(frozen=True)
class Elsewhere:
    """A virtual environment of its own with a home of its own."""

    venv: Path
    home: Path
    cwd: Path = Path("/")

    def run(
        self, *argv: str, code: int = 0, seconds: float = 600, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment; fails the test when it does not end with ``code``."""
        # Not those of the checkout.
        others = [one for one in os.environ["PATH"].split(":") if not one.startswith(str(collection_archive.ROOT))]
        env = collection_archive.plain_environment(self.home) | {
            "PATH": ":".join([str(self.venv / "bin"), *others]),
            **variables,
        }
        done = subprocess.run(
            [str(self.venv / "bin" / argv[0]), *argv[1:]],
            cwd=self.cwd,
            env=env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
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


def distributions(folder: Path) -> Path:
    """The source distribution and the wheel made from it, in ``folder``; return the wheel."""
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(collection_archive.ROOT)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel
