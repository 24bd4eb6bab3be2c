"""Hosts that exist already: refused before any change where they cannot be used, made a cluster, left as they were."""

from __future__ import annotations

import copy
import difflib
import secrets
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import Typed
from support.hosts import Host, agent, hosts, with_other_port, with_sudo

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """One is reached as root at another port, the other as a user who becomes root, with the key of an agent."""
    number = secrets.randbelow(200) + 20
    with hosts(f"existing-{secrets.token_hex(2)}", 2, tmp_path_factory.mktemp("hosts"), number) as (first, second):
        second = replace(with_sudo(second, "lab", tmp_path_factory.mktemp("sudo")), by_agent=True)
        with agent(second.key_file, tmp_path_factory.mktemp("agent")):
            yield [with_other_port(first), second]


@pytest.fixture(scope="module")
def before(two: list[Host]) -> list[list[str]]:
    return [host.shown() for host in two]


def wanted(two: list[Host]) -> dict[str, Any]:
    return {
        "provider": "existing",
        "nodes": {
            "master-0": {"schedulable": True, "host": two[0].profile},
            "worker-0": {"host": two[1].profile, "labels": {"pipe": "true"}},
        },
    }


def written(folder: Path, profile: dict[str, Any]) -> str:
    path = folder / "existing.yml"
    path.write_text(yaml.safe_dump(profile))
    return str(path)


def other_key(folder: Path) -> str:
    path = folder / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return str(path)


def unreachable(profile: dict[str, Any], two: list[Host], folder: Path) -> None:
    profile["nodes"]["worker-0"]["host"]["addresses"] = [two[1].address.rpartition(".")[0] + ".99"]


def wrong_port(profile: dict[str, Any], two: list[Host], folder: Path) -> None:
    profile["nodes"]["worker-0"]["host"]["port"] = 9


def wrong_key(profile: dict[str, Any], two: list[Host], folder: Path) -> None:
    profile["nodes"]["worker-0"]["host"]["key_file"] = other_key(folder)


def unknown_host_key(profile: dict[str, Any], two: list[Host], folder: Path) -> None:
    (folder / "empty").touch()
    profile["nodes"]["worker-0"]["host"]["known_hosts"] = str(folder / "empty")


def twice_the_same(profile: dict[str, Any], two: list[Host], folder: Path) -> None:
    two[0].sh(f"ip address add {two[1].address.rpartition('.')[0]}.77/32 dev eth0")
    known = folder / "known"
    line = two[0].known_hosts.read_text().splitlines()[0]
    known.write_text(line.replace(two[0].address, two[1].address.rpartition(".")[0] + ".77") + "\n")
    profile["nodes"]["worker-0"]["host"] |= {
        "addresses": [two[1].address.rpartition(".")[0] + ".77"],
        "known_hosts": str(known),
        "user": "root",
        "become": False,
    }


def not_root(profile: dict[str, Any], two: list[Host], folder: Path) -> None:
    profile["nodes"]["worker-0"]["host"]["become"] = False


REFUSED = [
    (unreachable, "host_unreachable", "worker-0: 198.18."),
    (wrong_port, "host_unreachable", "port 9"),
    (wrong_key, "host_login", "worker-0: lab@198.18."),
    (not_root, "host_login", "worker-0: lab is not root there; set become"),
    (unknown_host_key, "host_key_unknown", "worker-0: 198.18."),
    (twice_the_same, "host_unfit", "worker-0: is the same host as master-0"),
]


@pytest.mark.parametrize(("change", "reason", "words"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_hosts_that_cannot_be_used_are_refused_by_name(
    user: Typed, two: list[Host], before: list[list[str]], new_name: Callable[[str], str], tmp_path: Path,
    change: Callable[[dict[str, Any], list[Host], Path], None], reason: str, words: str,
) -> None:  # fmt: skip
    profile, name = copy.deepcopy(wanted(two)), new_name("existing")
    change(profile, two, tmp_path)
    done = user.devenv("up", "--profile", written(tmp_path, profile), "--name", name, code=9)
    if change is twice_the_same:
        two[0].sh(f"ip address del {two[1].address.rpartition('.')[0]}.77/32 dev eth0")
    assert f"[{reason}]" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (user.home / "environments" / name).exists()
    unchanged(two, before)


def test_a_user_who_may_not_become_root_is_refused(
    user: Typed, two: list[Host], before: list[list[str]], new_name: Callable[[str], str], tmp_path: Path
) -> None:
    two[1].sh("mv /etc/sudoers.d/lab /root/")
    try:
        done = user.devenv("up", "--profile", written(tmp_path, wanted(two)), "--name", new_name("existing"), code=9)
    finally:
        two[1].sh("mv /root/lab /etc/sudoers.d/")
    assert "[host_login]" in done.stderr
    assert "worker-0: lab@198.18." in done.stderr
    assert "sudo" in done.stderr
    unchanged(two, before)


KUBELET = "clusters:\n- cluster:\n    server: https://x:6443\n"
RECORD = '{"environment": "z", "home": "/h", "controller": "c"}'
TAKEN = [
    (
        f"mkdir /etc/kubernetes; cat > /etc/kubernetes/kubelet.conf << END\n{KUBELET}END\n",
        "rm -r /etc/kubernetes",
        "worker-0: is a node of another cluster at https://x:6443 (/etc/kubernetes/kubelet.conf)",
    ),
    (
        f"mkdir /var/lib/devenv; echo '{RECORD}' > /var/lib/devenv/existing.json",
        "rm -r /var/lib/devenv",
        "worker-0: belongs to environment z of c:/h",
    ),
]


@pytest.mark.parametrize(("take", "free", "words"), TAKEN, ids=["cluster", "environment"])
def test_a_host_of_someone_else_is_refused(
    user: Typed, two: list[Host], before: list[list[str]], new_name: Callable[[str], str], tmp_path: Path,
    take: str, free: str, words: str,
) -> None:  # fmt: skip
    two[1].sh(take)
    try:
        profile = written(tmp_path, wanted(two))
        done = user.devenv("up", "--profile", profile, "--name", new_name("existing"), code=9)
    finally:
        two[1].sh(free)
    assert "[host_taken]" in done.stderr
    assert words in done.stderr
    unchanged(two, before)


def test_a_cluster_on_hosts_that_exist(
    user: Typed, two: list[Host], before: list[list[str]], new_name: Callable[[str], str], tmp_path: Path
) -> None:
    name, profile = new_name("existing"), written(tmp_path, wanted(two))
    user.devenv("up", "--profile", profile, "--name", name)
    try:
        nodes = user.kubectl(name, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").stdout
        assert nodes.split() == ["master-0", "worker-0"]
        again = user.objects("up", "--profile", profile, "--name", name, "--full")[-1]
        assert again["changed"] == 0
        assert "nothing has changed" in user.devenv("up", "--name", name).stderr
        assert user.objects("validate", "--name", name)[-1]["exit"] == 0
        for node, host in zip(("master-0", "worker-0"), two, strict=True):
            assert user.devenv("ssh", node, "--name", name, "--", "id", "-un").stdout.strip() == host.user
            journal = user.devenv("logs", node, "--name", name, "--unit", "kubelet", "--lines", "20").stdout
            assert "kubelet[" in journal
        archive = tmp_path / "gathered.tar.gz"
        user.devenv("gather", "--name", name, "--output", str(archive))
        with tarfile.open(archive) as opened:
            sizes = {member.name: member.size for member in opened.getmembers()}
        for node in ("master-0", "worker-0"):
            assert [size > 0 for path, size in sizes.items() if path.endswith(f"{node}/journal/kubelet.txt")] == [True]
        for verb in ("stop", "start"):
            done = user.devenv(verb, "--name", name, code=2)
            assert "[provider_cannot]" in done.stderr
        other = user.devenv("up", "--profile", profile, "--name", new_name("existing"), code=9)
        assert f"master-0: belongs to environment {name}" in other.stderr
    finally:
        user.devenv("down", "--name", name)
    unchanged(two, before)


def unchanged(two: list[Host], before: list[list[str]]) -> None:
    for host, was in zip(two, before, strict=True):
        assert list(difflib.unified_diff(was, host.shown(), lineterm="", n=0)) == []
