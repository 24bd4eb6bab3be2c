"""Existing hosts: rejected before any change if unsuitable, turned into a cluster, restored afterwards."""

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
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """Two hosts: one with root at another port, the other with a user who becomes root and a key in an agent."""
    number = secrets.randbelow(200) + 20
    with hosts(f"existing-{secrets.token_hex(2)}", 2, tmp_path_factory.mktemp("hosts"), number) as (first, second):
        second = replace(with_sudo(second, "lab", tmp_path_factory.mktemp("sudo")), by_agent=True)
        with agent(second.key_file, tmp_path_factory.mktemp("agent")):
            yield [with_other_port(first), second]


@pytest.fixture(scope="module")
def before(pair: list[Host]) -> list[list[str]]:
    return [host.shown() for host in pair]


def profile_of(pair: list[Host]) -> dict[str, Any]:
    return {
        "provider": "existing",
        "nodes": {
            "master-0": {"schedulable": True, "host": pair[0].profile},
            "worker-0": {"host": pair[1].profile, "labels": {"pipe": "true"}},
        },
    }


def write(folder: Path, profile: dict[str, Any]) -> str:
    path = folder / "existing.yml"
    path.write_text(yaml.safe_dump(profile))
    return str(path)


def other_key(folder: Path) -> str:
    path = folder / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return str(path)


def unreachable(profile: dict[str, Any], pair: list[Host], folder: Path) -> None:
    profile["nodes"]["worker-0"]["host"]["addresses"] = [pair[1].address.rpartition(".")[0] + ".99"]


def wrong_port(profile: dict[str, Any], pair: list[Host], folder: Path) -> None:
    profile["nodes"]["worker-0"]["host"]["port"] = 9


def wrong_key(profile: dict[str, Any], pair: list[Host], folder: Path) -> None:
    profile["nodes"]["worker-0"]["host"]["key_file"] = other_key(folder)


def unknown_host_key(profile: dict[str, Any], pair: list[Host], folder: Path) -> None:
    (folder / "empty").touch()
    profile["nodes"]["worker-0"]["host"]["known_hosts"] = str(folder / "empty")


def the_same_host_twice(profile: dict[str, Any], pair: list[Host], folder: Path) -> None:
    pair[0].sh(f"ip address add {pair[1].address.rpartition('.')[0]}.77/32 dev eth0")
    known = folder / "known"
    line = pair[0].known_hosts.read_text().splitlines()[0]
    known.write_text(line.replace(pair[0].address, pair[1].address.rpartition(".")[0] + ".77") + "\n")
    profile["nodes"]["worker-0"]["host"] |= {
        "addresses": [pair[1].address.rpartition(".")[0] + ".77"],
        "known_hosts": str(known),
        "user": "root",
        "become": False,
    }


def not_root(profile: dict[str, Any], pair: list[Host], folder: Path) -> None:
    profile["nodes"]["worker-0"]["host"]["become"] = False


REFUSED = [
    (unreachable, "host_unreachable", "worker-0: 198.18."),
    (wrong_port, "host_unreachable", "port 9"),
    (wrong_key, "host_login", "worker-0: lab@198.18."),
    (not_root, "host_login", "worker-0: lab is not root there; set become"),
    (unknown_host_key, "host_key_unknown", "worker-0: 198.18."),
    (the_same_host_twice, "host_unfit", "worker-0: is the same host as master-0"),
]


@pytest.mark.parametrize(("change", "reason", "message"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_unsuitable_hosts_are_refused_by_name(
    user: Typed, pair: list[Host], before: list[list[str]], new_name: Callable[[str], str], tmp_path: Path,
    change: Callable[[dict[str, Any], list[Host], Path], None], reason: str, message: str,
) -> None:  # fmt: skip
    profile, name = copy.deepcopy(profile_of(pair)), new_name("existing")
    change(profile, pair, tmp_path)
    done = user.devenv("up", "--profile", write(tmp_path, profile), "--name", name, code=9)
    if change is the_same_host_twice:
        pair[0].sh(f"ip address del {pair[1].address.rpartition('.')[0]}.77/32 dev eth0")
    assert f"[{reason}]" in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (user.home / "environments" / name).exists()
    unchanged(pair, before)


def test_a_user_who_cannot_become_root_is_refused(
    user: Typed, pair: list[Host], before: list[list[str]], new_name: Callable[[str], str], tmp_path: Path
) -> None:
    pair[1].sh("mv /etc/sudoers.d/lab /root/")
    try:
        done = user.devenv("up", "--profile", write(tmp_path, profile_of(pair)), "--name", new_name("existing"), code=9)
    finally:
        pair[1].sh("mv /root/lab /etc/sudoers.d/")
    assert "[host_login]" in done.stderr
    assert "worker-0: lab@198.18." in done.stderr
    assert "sudo" in done.stderr
    unchanged(pair, before)


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


@pytest.mark.parametrize(("take", "free", "message"), TAKEN, ids=["cluster", "environment"])
def test_a_host_of_someone_else_is_refused(
    user: Typed, pair: list[Host], before: list[list[str]], new_name: Callable[[str], str], tmp_path: Path,
    take: str, free: str, message: str,
) -> None:  # fmt: skip
    pair[1].sh(take)
    try:
        profile = write(tmp_path, profile_of(pair))
        done = user.devenv("up", "--profile", profile, "--name", new_name("existing"), code=9)
    finally:
        pair[1].sh(free)
    assert "[host_taken]" in done.stderr
    assert message in done.stderr
    unchanged(pair, before)


def test_a_cluster_on_existing_hosts(
    user: Typed, pair: list[Host], before: list[list[str]], new_name: Callable[[str], str], tmp_path: Path
) -> None:
    name, profile = new_name("existing"), write(tmp_path, profile_of(pair))
    user.devenv("up", "--profile", profile, "--name", name)
    try:
        nodes = user.kubectl(name, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").stdout
        assert nodes.split() == ["master-0", "worker-0"]
        second = user.objects("up", "--profile", profile, "--name", name, "--full")[-1]
        assert second["changed"] == 0
        assert "nothing has changed" in user.devenv("up", "--name", name).stderr
        assert user.objects("validate", "--name", name)[-1]["exit"] == 0
        for node, host in zip(("master-0", "worker-0"), pair, strict=True):
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
        refused = user.devenv("up", "--profile", profile, "--name", new_name("existing"), code=9)
        assert f"master-0: belongs to environment {name}" in refused.stderr
    finally:
        user.devenv("down", "--name", name)
    unchanged(pair, before)


def unchanged(pair: list[Host], before: list[list[str]]) -> None:
    for host, was in zip(pair, before, strict=True):
        assert list(difflib.unified_diff(was, host.shown(), lineterm="", n=0)) == []
