"""The command as the benchmarks type it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"


def devenv(home: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``devenv WORDS`` with ``home`` as DEVENV_HOME and no setting of Ansible's or Python's from this shell."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PYTHON"))}
    env = {**kept, "DEVENV_HOME": str(home)}
    return subprocess.run([BIN / "devenv", *words], env=env, capture_output=True, text=True, check=check)
