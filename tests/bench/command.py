"""The command as the benchmarks type it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"


def devenv(home: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``devenv WORDS`` with ``home`` as DEVENV_HOME and no setting of Ansible's or Python's from this shell."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PYTHON"))}
    env = {**kept, "DEVENV_HOME": str(home)}
    return subprocess.run([BIN / "devenv", *words], env=env, capture_output=True, text=True, check=check)


def kubectl(
    kubeconfig: Path, *words: str, data: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """``kubectl WORDS`` with ``data`` as its input."""
    argv = [str(BIN / "kubectl"), f"--kubeconfig={kubeconfig}", *words]
    return subprocess.run(argv, input=data, capture_output=True, text=True, check=check)


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A folder where nodes can have their images as hard links: on the cache's filesystem."""
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=cache) as folder:
        yield Path(folder)
