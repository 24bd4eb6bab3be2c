"""The provider of existing hosts: its profiles, its network plan, and the refusal of unusable hosts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, members
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.existing import provider as existing
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Answer

ONE: dict[str, Any] = {"provider": "existing", "nodes.master-0.host": {"addresses": ["192.0.2.10"]}}
MINE = {"environment": "lab", "home": "/h", "controller": "c"}
GOOD: dict[str, Any] = {
    "root": True,
    "systemd": True,
    "machine": "x86_64",
    "missing": [],
    "active": [],
    "traces": [],
    "foreign_binaries": [],
    "server": "",
    "memory": 4 << 30,
    "disk": 40 << 30,
    "addresses": ["127.0.0.1", "192.0.2.10"],
    "ports": {"22": "sshd (pid 1)"},
    "boot_id": "b",
    "record": {},
}


def variables(address: str = "192.0.2.10") -> dict[str, Any]:
    """Return the variables of a control plane node on a host."""
    return {"devenv_group": "control_plane", "devenv_host": {"addresses": [address], "user": "me", "port": 22}}


# --- profile ---------------------------------------------------------------------------------------------------------


def test_a_profile_with_hosts_gets_all_defaults() -> None:
    resolved = resolve("sno-dualstack6-static", overrides={
        "provider": "existing",
        "nodes.master-0.host": {"addresses": ["192.0.2.10", "2001:DB8::10"], "user": "me", "become": True},
    })  # fmt: skip
    assert resolved["nodes"][0]["host"] == {
        "addresses": ["2001:db8::10", "192.0.2.10"],
        "user": "me",
        "port": 22,
        "key_file": "",
        "known_hosts": "",
        "become": True,
    }


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("sno", {"provider": "existing"}, "nodes.master-0.host: is missing"),
        ("sno", {"nodes.master-0.host": {"addresses": ["192.0.2.1"]}}, "needs the provider existing, not podman"),
        ("sno-ipv4-dhcp", ONE, "addressing: must be static: hosts of the provider existing"),
        ("sno-dualstack-static", ONE, "nodes.master-0.host.addresses: has no ipv6 address"),
        ("sno", {**ONE, "nodes.master-0.host.addresses": ["fd00::1"]}, "[0]: exactly one address of each of ipv4"),
        ("sno", {**ONE, "nodes.master-0.host.addresses": ["host"]}, "addresses[0]: must be an IP address"),
        ("sno", {**ONE, "nodes.master-0.host.addresses": ["127.0.0.1"]}, "addresses[0]: must be an ordinary unicast"),
        ("sno", {**ONE, "nodes.master-0.host.addresses": []}, "addresses: must not be empty"),
        ("sno", {**ONE, "nodes.master-0.host.user": "a b"}, "user: must be a user name"),
        ("sno", {**ONE, "nodes.master-0.host.key_file": "key"}, "key_file: must be an absolute path"),
        ("sno", {**ONE, "nodes.worker-0.host": {"addresses": ["192.0.2.10"]}}, "192.0.2.10 is also an address of"),
        ("sno", {**ONE, "nodes.master-1.host": {"addresses": ["192.0.2.11"]}}, "kind virtual needs at least one"),
    ],
)  # fmt: skip
def test_invalid_hosts_are_refused(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(DevenvError) as caught:
        resolve(name, overrides=overrides)
    assert (caught.value.reason.id, caught.value.exit_code) == ("profile_invalid", 2)
    assert message in str(caught.value)


def test_network_and_inventory_of_hosts() -> None:
    overrides: dict[str, Any] = {
        "provider": "existing",
        "clusters.main.endpoint.addresses": ["192.0.2.5"],
        "nodes": {
            f"master-{number}": {"host": {"addresses": [f"192.0.2.{20 - number}"], "key_file": "/k"}}
            for number in range(3)
        },
    }
    resolved = resolve("compact", overrides=overrides)
    network = existing.network(resolved, None)
    assert network["clusters"] == {"main": {"index": 0, "virtual": {"ipv4": "192.0.2.5"}}}
    assert existing.network(resolved, network) == network
    built = inventory.build(resolved, network, "/s/lab")
    node = built["hosts"]["master-1"]
    assert (node["ansible_host"], node["ansible_port"], node["ansible_user"]) == ("192.0.2.19", 22, "root")
    assert node["ansible_ssh_private_key_file"] == "/k"
    assert str(Path("~/.ssh/known_hosts").expanduser()) in node["ansible_ssh_common_args"]
    assert (node["devenv_addresses"], node["devenv_endpoint_addresses"]) == (["192.0.2.19"], ["192.0.2.5"])
    assert built["vars"]["devenv_gateways"] == []
    task_vars = {**built["vars"], "hostvars": built["hosts"], "groups": built["groups"]}
    assert inventory.profile_of(task_vars) == resolved
    fewer = resolve("compact", overrides={**overrides, "nodes.master-2": None})
    after = existing.network(fewer, network)
    assert after["nodes"]["master-2"] == network["nodes"]["master-2"]
    rebuilt = inventory.build(fewer, after, "/s/lab")
    assert rebuilt["groups"]["leaving"] == ["master-2"]
    assert rebuilt["hosts"]["master-2"]["ansible_ssh_private_key_file"] == "/k"


def test_become_and_the_default_key_reach_the_inventory() -> None:
    resolved = resolve("sno", overrides={**ONE, "nodes.master-0.host.become": True})
    node = inventory.build(resolved, None, "/s/lab")["hosts"]["master-0"]
    assert node["ansible_become"] is True
    assert node["ansible_ssh_private_key_file"] == ""
    assert "IdentitiesOnly" not in node["ansible_ssh_common_args"]


# --- refusals --------------------------------------------------------------------------------------------------------


def refusal(**changes: Any) -> DevenvError | None:
    """Return the error for a host with these changes, None if it is usable."""
    answers = {"master-0": Answer("master-0", {**GOOD, **changes})}
    try:
        existing.require({"master-0": variables()}, answers, MINE, "kubeadm")
    except DevenvError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        ({"root": False}, "host_login", "me is not root there"),
        ({"systemd": False}, "host_unfit", "systemd is not its first process"),
        ({"machine": "riscv64"}, "host_unfit", "is riscv64"),
        ({"missing": ["runc", "nft"]}, "host_unfit", "lacks runc, nft (Debian: apt-get install nftables runc)"),
        ({"active": ["docker.service"]}, "host_unfit", "docker.service is running"),
        ({"active": ["kubelet.service"]}, "host_taken", "is a node of another cluster (kubelet runs)"),
        ({"traces": ["/etc/rancher"], "server": "https://x"}, "host_taken", "cluster at https://x (/etc/rancher)"),
        ({"record": {**MINE, "home": "/o"}}, "host_taken", "belongs to environment lab of c:/o"),
        ({"record": {"environment": "?"} | dict.fromkeys(("home", "controller"), "?")}, "host_taken", "environment ?"),
        ({"foreign_binaries": ["kubectl"]}, "host_unfit", "has its own kubectl in /usr/local/bin"),
        ({"addresses": ["192.0.2.11"]}, "host_unfit", "does not have the address 192.0.2.10"),
        ({"memory": 1 << 28}, "host_unfit", "memory: 256 MiB, needed: 700 MiB"),
        ({"disk": 1 << 20}, "host_unfit", "free disk in /var/lib: 1 MiB"),
        ({"ports": {"10250": "nginx (pid 7)", "2379": "", "80": "x"}}, "host_unfit",
         "master-0: port 2379 is in use; master-0: port 10250 is in use by nginx (pid 7)"),
    ],
)  # fmt: skip
def test_unusable_hosts_are_refused_with_a_reason(data: dict[str, Any], reason: str, message: str) -> None:
    error = refusal(**data)
    assert error is not None
    assert (error.reason.id, error.exit_code) == (reason, 9)
    assert "master-0: " in str(error)
    assert message in str(error)


@pytest.mark.parametrize("greeting", ["welcome", "a\n  {b}\n"])
def test_a_shell_that_prints_what_ansible_cannot_skip_is_refused(greeting: str) -> None:
    answers = {"master-0": Answer("master-0", GOOD, greeting=greeting)}
    with pytest.raises(DevenvError, match="master-0: its shell prints"):
        existing.require({"master-0": variables()}, answers, MINE, "kubeadm")


@pytest.mark.parametrize("greeting", ["", "welcome\n", "a\n[ ok ]\n"])
def test_a_shell_that_prints_lines_is_usable(greeting: str) -> None:
    answers = {"master-0": Answer("master-0", GOOD, greeting=greeting)}
    existing.require({"master-0": variables()}, answers, MINE, "kubeadm")


def test_fresh_and_owned_hosts_are_usable() -> None:
    assert refusal() is None
    # devenv itself installed what is on an owned host.
    owned = {"record": dict(MINE), "active": ["containerd.service", "kubelet.service"], "traces": ["/etc/kubernetes/x"]}
    assert refusal(**owned) is None


@pytest.mark.parametrize(("record", "lost"), [(MINE, False), ({}, True)])
def test_a_reinstalled_host_does_not_become_an_empty_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, str], lost: bool
) -> None:
    """Without devenv's record, which the first change of a host writes, the host was reinstalled."""
    monkeypatch.setenv("DEVENV_HOME", str(tmp_path))
    monkeypatch.setattr(
        existing, "_inspect", lambda request: {"master-0": Answer("master-0", GOOD | {"record": record})}
    )
    request = existing.Request("lab", resolve("sno", overrides=ONE))
    members.record(request.folder, "main", ["master-0"])
    if not lost:
        assert existing.Provider().preflight(request) == []
        return
    with pytest.raises(DevenvError, match="the data of master-0 are gone") as caught:
        existing.Provider().preflight(request)
    assert (caught.value.reason.id, caught.value.exit_code) == ("cluster_lost", 9)
    assert existing.Provider().preflight(dataclasses.replace(request, recreate=True)) == []


@pytest.mark.parametrize(
    ("group", "kind", "port", "used"),
    [
        ("workers", "node", 6443, False),
        ("control_plane", "node", 8443, False),
        ("control_plane", "virtual", 8443, True),
    ],
)
def test_ports_depend_on_the_group_and_the_endpoint(group: str, kind: str, port: int, used: bool) -> None:
    ports = existing.ports_of({"devenv_group": group, "devenv_endpoint_kind": kind}, "kubeadm")
    assert (port in ports) is used
    assert 10250 in ports


def test_all_unusable_hosts_are_reported_at_once() -> None:
    answers = {
        "master-0": Answer("master-0", GOOD | {"missing": ["runc"]}),
        "worker-0": Answer("worker-0", trouble="ssh: connect to host 192.0.2.11 port 22: No route to host"),
    }
    with pytest.raises(DevenvError) as caught:
        existing.require({"master-0": variables(), "worker-0": variables("192.0.2.11")}, answers, MINE, "kubeadm")
    assert "master-0: lacks runc" in str(caught.value)
    assert "worker-0: 192.0.2.11, port 22: ssh: connect" in str(caught.value)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("root@192.0.2.10: Permission denied (publickey).", "host_login"),
        ("sudo: a password is required", "host_login"),
        ("Host key verification failed.", "host_key_unknown"),
        ("ssh: connect to host 192.0.2.10 port 22: Connection refused", "host_unreachable"),
        ("no answer within 30 s", "host_unreachable"),
    ],
)
def test_errors_of_ssh_have_their_reasons(trouble: str, reason: str) -> None:
    assert existing.no_answer(variables()["devenv_host"], trouble)[0] == reason


def test_two_nodes_on_one_host_are_refused() -> None:
    addresses = ["192.0.2.10", "192.0.2.11"]
    answers = {name: Answer(name, GOOD | {"addresses": addresses}) for name in ("master-0", "worker-0")}
    with pytest.raises(DevenvError, match="worker-0: is the same host as master-0"):
        existing.require({"master-0": variables(), "worker-0": variables("192.0.2.11")}, answers, MINE, "kubeadm")


# --- examples --------------------------------------------------------------------------------------------------------


def test_the_example_resolves_and_its_inventory_names_its_nodes() -> None:
    folder = paths.COLLECTION / "inventories" / "examples" / "existing"
    resolved = resolve(str(folder / "profile.yml"))
    engines.require(resolved)
    hosts = yaml.safe_load((folder / "hosts.yml").read_text())["all"]["hosts"]
    assert set(hosts) <= {node["name"] for node in resolved["nodes"]}


def test_the_guides_example_resolves(tmp_path: Path) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "existing-hosts.md").read_text()
    (tmp_path / "lab.yml").write_text(guide.partition("```yaml\n")[2].partition("```")[0])
    resolved = resolve(str(tmp_path / "lab.yml"))
    assert [node["host"]["port"] for node in resolved["nodes"]] == [22, 22, 2222]
