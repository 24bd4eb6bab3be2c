"""What the machine lacks is reported before anything changes; a run that fails half way can be continued."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.commands import Typed

pytestmark = pytest.mark.cluster


def refused(user: Typed, name: str, *words: str, code: int, env: dict[str, str] | None = None) -> str:
    """Run an `up` that must fail with ``code`` and leave nothing; return its stderr."""
    done = user.devenv("up", "--name", name, *words, code=code, env=env)
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")], done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("next: ")], done.stderr
    assert not (user.home / "environments" / name).exists()
    listed = subprocess.run(
        ["podman", "ps", "--all", "--quiet", "--filter", f"label=devenv.environment={name}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout == ""
    return done.stderr


def test_up_refuses_too_little_memory(user: Typed, environment: str, tmp_path: Path) -> None:
    many = tmp_path / "many.yml"
    workers: dict[str, dict[str, str]] = {f"worker-{number}": {} for number in range(2, 200)}
    many.write_text(yaml.safe_dump({"extends": "master-2pipe", "nodes": workers}))
    assert "memory" in refused(user, environment, "--profile", str(many), code=9)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate small filesystem for the state; `grow` makes it larger."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "devenv-test", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def grow(place: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def test_too_little_disk_is_refused_and_a_full_disk_can_be_continued(environment: str, small_disk: Path) -> None:
    user = Typed(small_disk / "home")
    assert "disk" in refused(user, environment, "--profile", "sno", code=9)
    # Enough for the preflight, but not for the copy of the image store, which another filesystem requires.
    grow(small_disk, "620m")
    done = user.devenv("up", "--profile", "sno", "--name", environment, code=3)
    assert "space" in done.stderr
    assert "Traceback" not in done.stderr
    grow(small_disk, "8g")
    done = user.devenv("up", "--profile", "sno", "--name", environment)
    assert "copied" in done.stderr
    user.devenv("down", "--name", environment)


def test_up_refuses_a_user_without_root(user: Typed, environment: str) -> None:
    done = user.run(
        "/usr/bin/unshare", "--user", shutil.which("devenv", path=_venv()) or "devenv", "up", "--profile", "aio",
        "--name", environment, code=9,
    )  # fmt: skip
    assert "root" in done.stderr
    assert "Traceback" not in done.stderr


def _venv() -> str:
    return str(Path(__file__).resolve().parents[2] / ".venv" / "bin")


def test_up_refuses_a_host_without_podman(user: Typed, environment: str, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("/usr/sbin", "/usr/bin"):
        for program in Path(folder).iterdir():
            link = programs / program.name
            if program.name != "podman" and not link.is_symlink():
                link.symlink_to(program)
    text = refused(user, environment, "--profile", "aio", code=9, env={"PATH": f"{_venv()}:{programs}"})
    assert "podman" in text
    assert "apt-get install" in text


def test_up_refuses_a_pool_that_the_host_uses(user: Typed, environment: str) -> None:
    route = ["198.18.77.0/24", "dev", "lo"]
    subprocess.run(["ip", "route", "add", *route], check=True)
    try:
        words = ["--profile", "sno", "--set", "network.node_pools.ipv4=198.18.77.0/24"]
        assert "198.18.77.0/24" in refused(user, environment, *words, code=9)
    finally:
        subprocess.run(["ip", "route", "del", *route], check=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("- a\n- b\n", "list"),
        ("topology: [\n", "line"),
        ("topologie: aio\n", "topologie"),
        ("topology: 7\n", "topology"),
        ("extends: ./bad.yml\n", "bad.yml"),
        ("extends: aio\napps: [{name: x}]\n", "apps"),
        ("extends: aio\nnetwork: {pods: {ipv4: 10.213.0.0/16}}\n", "overlap"),
    ],
)
def test_up_refuses_an_invalid_profile(
    user: Typed, environment: str, tmp_path: Path, content: str, message: str
) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text(content)
    assert message in refused(user, environment, "--profile", str(bad), code=2)


def test_invalid_names_are_refused(user: Typed, environment: str) -> None:
    assert "aio" in refused(user, environment, "--profile", "aoi", code=2)
    done = user.devenv("up", "--profile", "aio", "--name", "Not_A_Name", code=2)
    assert "Not_A_Name" in done.stderr
    user.devenv("status", "--name", "no-such-environment", code=11)
    user.devenv("down", "--name", "no-such-environment")
    plain = user.playbook("cluster", code=None)
    assert plain.returncode != 0
    assert "no profile was given" in plain.stdout + plain.stderr
