"""Existing hosts: rejected before any change if unsuitable, turned into a cluster behind a load balancer, restored
afterwards.
"""

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
from support.hosts import Host, address_of, agent, hosts, load_balancer, with_other_port, with_sudo
from support.waits import until

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """Two hosts: one with root at another port, the other with a user who becomes root and a key in an agent."""
    prefix, number = f"existing-{secrets.token_hex(2)}", secrets.randbelow(200) + 20
    balancer, folder = address_of(number, 5), tmp_path_factory.mktemp("balancer")
    with (
        hosts(prefix, 2, tmp_path_factory.mktemp("hosts"), number) as (first, second),
        load_balancer(prefix, balancer, [first.address], folder),
    ):
        second = replace(with_sudo(second, "lab", tmp_path_factory.mktemp("sudo")), by_agent=True)
        with agent(second.key_file, tmp_path_factory.mktemp("agent")):
            yield [with_other_port(first), second]


@pytest.fixture(scope="module")
def before(pair: list[Host]) -> list[list[str]]:
    return [host.shown() for host in pair]


def balancer_of(pair: list[Host]) -> str:
    return address_of(int(pair[0].address.split(".")[2]), 5)


def profile_of(pair: list[Host]) -> dict[str, Any]:
    return {
        "provider": "existing",
        "clusters": {"main": {"endpoint": {"kind": "external", "addresses": [balancer_of(pair)]}}},
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


def a_port_in_use(profile: dict[str, Any], pair: list[Host], folder: Path) -> None:
    pair[1].sh("""
        systemd-run --quiet --unit=occupier python3 -m http.server 10250
        until ss -Hltn | grep -q :10250; do sleep 0.1; done
    """)


REFUSED = [
    (unreachable, "host_unreachable", "worker-0: 198.18."),
    (wrong_port, "host_unreachable", "port 9"),
    (wrong_key, "host_login", "worker-0: lab@198.18."),
    (not_root, "host_login", "worker-0: lab is not root there; set become"),
    (unknown_host_key, "host_key_unknown", "worker-0: 198.18."),
    (the_same_host_twice, "host_unfit", "worker-0: is the same host as master-0"),
    (a_port_in_use, "host_unfit", "worker-0: port 10250 is in use by python3 (pid "),
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
    if change is a_port_in_use:
        pair[1].sh("systemctl stop occupier")
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
    user = replace(user, umask=0o077)
    user.devenv("up", "--profile", profile, "--name", name)
    try:
        nodes = user.kubectl(name, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").stdout
        assert nodes.split() == ["master-0", "worker-0"]
        config = yaml.safe_load((user.home / "environments" / name / "kubeconfig").read_text())
        assert config["clusters"][0]["cluster"]["server"] == f"https://{balancer_of(pair)}:6443"
        # The worker's kubelet uses the load balancer, too.
        assert pair[1].sh(f"ss -Hnt dst {balancer_of(pair)}:6443")
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


@pytest.mark.nightly
def test_three_control_plane_nodes_on_existing_hosts(
    user: Typed, new_name: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    prefix, number = f"existing-{secrets.token_hex(2)}", secrets.randbelow(200) + 20
    name, virtual = new_name("existing"), address_of(number, 6)
    with hosts(prefix, 3, tmp_path_factory.mktemp("three"), number) as three:
        before = [host.shown() for host in three]
        profile = {
            "topology": "compact",
            "provider": "existing",
            "clusters": {"main": {"endpoint": {"addresses": [virtual]}}},
            "nodes": {f"master-{place}": {"host": host.profile} for place, host in enumerate(three)},
        }
        user.devenv("up", "--profile", write(tmp_path, profile), "--name", name)
        try:
            ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
            assert user.kubectl(name, "get", "nodes", "-o", ready).stdout == "True True True"
            place = "p=/etc/kubernetes/pki/etcd; etcdctl --endpoints=https://127.0.0.1:2379 --cacert=$p/ca.crt"
            script = f"{place} --cert=$p/server.crt --key=$p/server.key member list"
            assert user.devenv("ssh", "master-1", "--name", name, "--", script).stdout.count("started") == 3
            holders = [host for host in three if f" {virtual}/" in host.sh("ip -oneline address show dev eth0")]
            assert len(holders) == 1
            subprocess.run(["podman", "kill", holders[0].name], check=True, capture_output=True)
            version = ["curl", "--silent", "--insecure", "--max-time", "2", f"https://{virtual}:6443/version"]
            until(lambda: "gitVersion" in subprocess.run(version, capture_output=True, text=True, check=False).stdout)
            subprocess.run(["podman", "start", holders[0].name], check=True, capture_output=True)
            until(lambda: user.kubectl(name, "get", "nodes", "-o", ready).stdout == "True True True")
        finally:
            user.devenv("down", "--name", name)
        unchanged(three, before)


def unchanged(pair: list[Host], before: list[list[str]]) -> None:
    for host, was in zip(pair, before, strict=True):
        assert list(difflib.unified_diff(was, host.shown(), lineterm="", n=0)) == []
