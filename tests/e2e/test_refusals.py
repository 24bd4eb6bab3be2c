"""What the machine lacks is reported before anything changes; a run that fails half way can be continued."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


# A path of more than 200 characters with what people have in theirs.
HOME = "Jürgen's home, 100% (ü) #1 & " + "x" * 180
# What would break a node, or devenv itself.
CONTAINERS_CONF = """[containers]
userns = "auto"
netns = "host"
pidns = "host"
ipcns = "host"
utsns = "host"
init = true
env = ["PATH=/nowhere", "LD_PRELOAD=/nowhere.so"]
dns_servers = ["192.0.2.1"]
log_driver = "passthrough"
default_ulimits = ["nofile=64:64"]
volumes = ["/nowhere:/etc"]
umask = "0777"
[engine]
runtime = "nothing"
cgroup_manager = "nothing"
events_logger = "nothing"
network_cmd_path = "/nowhere"
"""


@dataclass(frozen=True)
class Awkward(Typed):
    """A user without a home directory, with settings of podman."""

    def environment(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        settings = self.home.parent / "containers.conf"
        settings.write_text(CONTAINERS_CONF)
        cache = str(self.home.parent / "a 'cache'")
        theirs = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": cache, "CONTAINERS_CONF": str(settings),
                  "PODMAN_USERNS": "auto", "STORAGE_OPTS": "overlay.mountopt=nosuch"}  # fmt: skip
        return super().environment({**theirs, **(variables or {})})


def test_too_little_disk_is_refused_and_a_full_disk_can_be_continued(environment: str, small_disk: Path) -> None:
    user = Awkward(small_disk / HOME, umask=0)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    (small_disk / "a 'cache'").symlink_to(cache)
    for options, message in (("noexec", "mounted with noexec"), ("exec,nr_inodes=200", "inodes free")):
        remount(small_disk, options)
        assert message in refused(user, environment, "--profile", "sno", code=9)
    remount(small_disk, "nr_inodes=100k")
    assert "disk" in refused(user, environment, "--profile", "sno", code=9)
    # Enough for the preflight, but not for the copy of the image store, which another filesystem requires.
    remount(small_disk, "size=620m")
    done = user.devenv("up", "--profile", "sno", "--name", environment, code=3)
    assert "space" in done.stderr
    assert "Traceback" not in done.stderr
    remount(small_disk, "size=8g")
    done = user.devenv("up", "--profile", "sno", "--name", environment)
    assert "copied" in done.stderr
    assert user.devenv("ssh", "master-0", "--name", environment, "--", "hostname").stdout == "master-0\n"
    assert "Ready" in user.kubectl(environment, "get", "nodes").stdout
    written = [path for path in (user.home / "environments").rglob("*") if "nodes" not in path.parts]
    loose = [path for path in written if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert loose == []
    user.devenv("down", "--name", environment)


def test_a_path_that_other_programs_misread_is_refused(environment: str, tmp_path: Path) -> None:
    user = Typed(tmp_path / "a:b" / "home")
    assert "[path_unusable]" in refused(user, environment, "--profile", "sno", code=9)
    plain = user.playbook("cluster", "-e", "profile=sno", code=None)
    assert plain.returncode != 0
    assert "the path has the character ':'" in plain.stdout + plain.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_podman_of_another_machine_is_refused(user: Typed, environment: str) -> None:
    other = {"CONTAINER_HOST": "ssh://me@192.0.2.1/run/podman/podman.sock"}
    assert "[podman_remote]" in refused(user, environment, "--profile", "sno", code=9, env=other)
    done = user.devenv("down", "--name", environment, code=9, env=other)
    assert "CONTAINER_HOST=ssh://me@192.0.2.1" in done.stderr


def test_a_firewall_between_nodes_is_refused_with_the_command_that_opens_it(user: Typed, environment: str) -> None:
    rules = "table inet guard { chain forward { type filter hook forward priority 0; policy drop; }; }"
    script = f"ip link set lo up; sysctl -qw net.bridge.bridge-nf-call-iptables=1; nft '{rules}'; exec \"$@\""
    devenv = str(Path(_venv()) / "devenv")
    words = ("up", "--profile", "master-2pipe", "--name", environment)
    done = user.run("/usr/bin/unshare", "--net", "sh", "-ec", script, "sh", devenv, *words, code=9)
    assert "[firewall_drops]" in done.stderr
    assert "nft insert rule inet guard forward ip saddr" in done.stderr
    assert not (user.home / "environments" / environment).exists()


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
        assert "198.18.77.0/24 (route of lo)" in refused(user, environment, *words, code=9)
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
