"""Virtual environments without access to the checkout, and what is installed into them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import collection_archive


@dataclass(frozen=True)
class Elsewhere:
    """A virtual environment with a separate home."""

    venv: Path
    home: Path
    cwd: Path = Path("/")

    def run(
        self, *argv: str, code: int = 0, seconds: float = 600, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment; fails the test when it does not end with ``code``."""
        # Without the programs of the checkout.
        others = [path for path in os.environ["PATH"].split(":") if not path.startswith(str(collection_archive.ROOT))]
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


def elsewhere(folder: Path, *requirements: str) -> Elsewhere:
    """Create a virtual environment below ``folder`` and install ``requirements`` with pip."""
    made = Elsewhere(folder / "venv", folder / "home")
    made.home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(made.venv)], check=True)
    # Use the shared cache of downloads; with the separate home, pip would fetch everything again.
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    made.run(
        "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements, PIP_CACHE_DIR=cache
    )
    return made


def distributions(folder: Path, project: Path = collection_archive.ROOT) -> Path:
    """Build the source distribution, and the wheel from it, in ``folder``; return the wheel."""
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(project)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel
