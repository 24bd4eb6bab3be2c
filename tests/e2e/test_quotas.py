"""The disk of a container: a limit where the filesystem of the nodes' data has quotas, refused elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import btrfs
from support.commands import Typed
from support.waits import until

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]


@pytest.fixture
def place(environment: str, tmp_path: Path) -> Iterator[Path]:
    """A mounted btrfs without quotas, for a DEVENV_HOME of the test."""
    with btrfs.mounted(tmp_path, 10 << 30) as place:
        yield place
        Typed(place / "devenv").devenv("down", "--name", environment)


def test_a_node_cannot_write_more_than_its_disk(environment: str, place: Path) -> None:
    user = Typed(place / "devenv")
    words = ("--profile", "aio", "--name", environment, "--set", "nodes.master-0.disk=3GiB")
    done = user.devenv("up", *words, code=2)
    assert f"btrfs quota enable {place}" in done.stderr
    overrides = '{"devenv_overrides": {"nodes.master-0.disk": "3GiB"}}'
    played = user.playbook("cluster", "-e", f"profile=aio devenv_name={environment}", "-e", overrides, code=None)
    assert played.returncode != 0
    assert f"btrfs quota enable {place}" in played.stdout + played.stderr
    assert not (user.home / "environments" / environment).exists()

    btrfs.run("btrfs", "quota", "enable", str(place))
    user.devenv("up", *words)
    assert btrfs.limits(place) == [str(3 << 30)]
    assert user.changes("up", *words) == []

    def write(path: str) -> subprocess.CompletedProcess[str]:
        argv = ("dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=3500")
        return user.devenv("ssh", "master-0", "--name", environment, "--", *argv, code=None)

    for path in ("/var/lib/kubelet/large", "/var/lib/devenv/large"):
        done = write(path)
        assert done.returncode != 0
        assert "Disk quota exceeded" in done.stderr
        user.devenv("ssh", "master-0", "--name", environment, "--", "rm", path)
    user.devenv("validate", "--name", environment)

    user.devenv("stop", "--name", environment)
    user.devenv("start", "--name", environment)
    assert btrfs.limits(place) == [str(3 << 30)]
    user.devenv("down", "--name", environment)
    assert list((user.home / "environments").iterdir()) == []
    assert btrfs.run("btrfs", "subvolume", "list", str(place)) == ""
    until(lambda: btrfs.limits(place) == [], seconds=30)
