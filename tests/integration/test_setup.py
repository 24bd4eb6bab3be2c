"""tools/setup installs what is missing and nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def setup(*parts: str, programs: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``tools/setup PARTS`` with the folder ``programs`` first on PATH."""
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}" if programs else os.environ["PATH"]}
    argv = [str(ROOT / "tools" / "setup"), *parts]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)


def script(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.mark.cluster
def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    for name in ("apt-get", "pip", "go"):
        script(tmp_path, name, f"echo {name} >> {tmp_path}/called; exit 1")
    done = setup("packages", "test-packages", "venv", "test-bundle", "bundle", "limits", programs=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "called").exists()


def test_without_root_it_prints_the_command_to_run(tmp_path: Path) -> None:
    script(tmp_path, "dpkg-query", 'for word; do :; done; [ "$word" = runc ] && exit 1; echo installed')
    script(tmp_path, "apt-get", f"touch {tmp_path}/called")
    script(tmp_path, "id", "echo 1000")
    done = setup("packages", programs=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "setup: sudo apt-get install --no-install-recommends runc "
    assert not (tmp_path / "called").exists()


def test_root_installs_missing_packages_with_one_command(tmp_path: Path) -> None:
    script(tmp_path, "dpkg-query", "for word; do :; done; case $word in podman|runc) exit 1;; esac; echo installed")
    script(tmp_path, "apt-get", f'echo "$@" >> {tmp_path}/called')
    script(tmp_path, "id", "echo 0")
    done = setup("packages", programs=tmp_path)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "called").read_text().splitlines()
    assert [call.split()[-2:] for call in calls if "install" in call] == [["podman", "runc"]]
    assert "--no-install-recommends" in calls[-1]


def test_an_unknown_part_is_refused() -> None:
    done = setup("everything")
    assert (done.returncode, done.stdout) == (1, "")
    assert "unknown part 'everything'" in done.stderr


@pytest.mark.parametrize("word", ["help", ""])
def test_make_lists_its_targets(word: str) -> None:
    output = subprocess.run(["make", *word.split()], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[1] for line in output.splitlines() if line.startswith("  make ")}
    required = "setup up down test lint unit artifact sanity molecule e2e chaos bench nightly docs clean"
    assert set(required.split()) <= targets
