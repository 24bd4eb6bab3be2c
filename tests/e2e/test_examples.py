"""The examples, run as a reader runs them: three cluster topologies and bare hosts, all real."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support import installed
from support.commands import ROOT, Typed

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]


def test_the_examples_pass_where_only_the_wheel_is_installed(user: Typed, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(ROOT / "examples", project, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "dist").mkdir()
    wheel = installed.distributions(tmp_path / "dist")
    elsewhere = replace(installed.elsewhere(tmp_path, f"{wheel}[test]"), cwd=project)
    done = elsewhere.run(
        "pytest",
        "-v",
        "-p",
        "no:cacheprovider",
        "--color=no",
        seconds=3600,
        DEVENV_HOME=str(user.home),
        # For the existing bundle.
        XDG_CACHE_HOME=os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
    )
    assert "6 passed" in done.stdout.splitlines()[-1], done.stdout
