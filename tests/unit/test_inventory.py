"""Hosts, groups and variables of a resolved profile; the static file and the listing; ssh's options."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, network_plan, ssh_options
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Node
from hypothesis import given
from hypothesis import strategies as st

SUBNETS = {"ipv4": "10.213.4.0/24", "ipv6": "fd77:6465:7600:4::/64"}
RESOLVED = resolve("master-2pipe-dualstack-static")
NETWORK = network_plan.make(RESOLVED, SUBNETS)
STATE = "/state/environments/lab"
ANSIBLE = Path(sys.executable).parent


def made(name: str = "master-2pipe-dualstack-static", state: str = STATE, **overrides: Any) -> dict[str, Any]:
    resolved = resolve(name, overrides=overrides)
    return inventory.build(resolved, network_plan.make(resolved, SUBNETS), state)


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONUNBUFFERED", "ANSIBLE_CONFIG")}
    return subprocess.run(
        [str(ANSIBLE / argv[0]), *argv[1:]], env={**clean, **env}, cwd="/", capture_output=True, text=True, check=False
    )


def test_nodes_are_in_their_groups() -> None:
    built = made()
    assert built["groups"] == {
        "nodes": ["master-0", "worker-0", "worker-1"],
        "control_plane": ["master-0"],
        "workers": ["worker-0", "worker-1"],
        "bare": [],
        "leaving": [],
        "cluster_main": ["master-0", "worker-0", "worker-1"],
        "label_pipe": ["worker-0", "worker-1"],
    }
    assert list(built["hosts"]) == ["master-0", "worker-0", "worker-1"]


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"storage.enabled": True}, ["storage"]),
        ({"metrics.enabled": True, "storage.enabled": True}, ["metrics", "storage"]),
        ({"validate.checks": [{"name": "releases", "command": ["helm", "list"]}]}, ["helm"]),
        ({"validate.checks": [{"name": "mine", "command": ["true"]}]}, []),
    ],
)
def test_bundle_parts_follow_from_the_profile(overrides: dict[str, Any], parts: list[str]) -> None:
    assert made(**overrides)["vars"]["devenv_bundle_parts"] == parts


def test_common_variables_follow_from_the_profile() -> None:
    built = made()
    resolved = resolve("master-2pipe-dualstack-static")
    assert built["vars"] == {
        "devenv_name": "lab",
        "devenv_state": STATE,
        "devenv_profile": {key: value for key, value in resolved.items() if key != "nodes"},
        "devenv_bundle_parts": [],
        "devenv_provider": "podman",
        "devenv_engine": "kubeadm",
        "devenv_engine_traits": {"brings": [], "preflight": False},
        "devenv_families": ["ipv4", "ipv6"],
        "devenv_addressing": "static",
        "devenv_kubernetes_version": resolved["kubernetes"]["version"],
        "devenv_pod_subnets": ["10.244.0.0/16", "fd01::/56"],
        "devenv_service_subnets": ["10.96.0.0/16", "fd02::/112"],
        "devenv_api_service": "10.96.0.1",
        "devenv_gateways": ["10.213.4.1", "fd77:6465:7600:4::1"],
    }


def test_node_variables_follow_from_profile_and_network() -> None:
    host = made()["hosts"]["worker-1"]
    assert shlex.split(host.pop("ansible_ssh_common_args"))[::2] == ["-F", *["-o"] * 4]
    assert host == {
        "ansible_connection": "ssh",
        "ansible_port": 22,
        "ansible_ssh_args": "-C -o ControlMaster=auto -o ControlPersist=120s",
        "ansible_host": "10.213.4.12",
        "ansible_user": "root",
        "ansible_ssh_private_key_file": f"{STATE}/ssh/id_ed25519",
        "ansible_python_interpreter": "/usr/bin/python3",
        "devenv_group": "workers",
        "devenv_cluster": "main",
        "devenv_index": 2,
        "devenv_mac": "52:54:0a:d5:04:0c",
        "devenv_addresses": ["10.213.4.12", "fd77:6465:7600:4::12"],
        "devenv_prefixes": [24, 64],
        "devenv_pod_cidrs": ["10.244.2.0/24", "fd01:0:0:2::/64"],
        "devenv_labels": {"pipe": "true"},
        "devenv_taints": [],
        "devenv_schedulable": True,
        "devenv_cpus": 2,
        "devenv_memory": 2 << 30,
        "devenv_disk": 20 << 30,
        "devenv_endpoint": "main.lab.devenv.internal",
        "devenv_kubeconfig": f"{STATE}/clusters/main/kubeconfig",
        "devenv_endpoint_kind": "node",
        "devenv_endpoint_addresses": ["10.213.4.10", "fd77:6465:7600:4::10"],
        "devenv_virtual_addresses": ["10.213.4.5", "fd77:6465:7600:4::5"],
        "devenv_endpoint_names": [],
    }


def test_hosts_have_no_addresses_before_the_claim() -> None:
    resolved = resolve("master-2pipe")
    built = inventory.build(resolved, None, STATE, "other")
    after = inventory.build(resolved, network_plan.make(resolved, SUBNETS), STATE, "other")
    host = built["hosts"]["worker-0"]
    assert "ansible_host" not in host
    assert (host["devenv_addresses"], host["devenv_mac"], host["devenv_prefixes"]) == ([], "", [24])
    assert built["vars"]["devenv_gateways"] == []
    assert built["vars"]["devenv_name"] == "other"
    for name, variables in built["hosts"].items():
        assert variables["devenv_index"] == after["hosts"][name]["devenv_index"]
        assert variables["devenv_pod_cidrs"] == after["hosts"][name]["devenv_pod_cidrs"]


def test_an_unclaimed_worker_has_its_future_index() -> None:
    before = resolve("master-2pipe")
    network = network_plan.make(before, SUBNETS)
    more = resolve("master-2pipe", overrides={"nodes.worker-2": {}})
    host = inventory.build(more, network, STATE)["hosts"]["worker-2"]
    assert "ansible_host" not in host
    assert host["devenv_index"] == 3


@pytest.mark.parametrize(
    ("name", "overrides", "kind", "endpoint", "before"),
    [
        ("ha-dualstack-static", {}, "virtual", ["10.213.4.5", "fd77:6465:7600:4::5"], []),
        ("ha-dualstack6-static", {}, "virtual", ["fd77:6465:7600:4::5", "10.213.4.5"], []),
        ("ha-ipv6-static", {}, "virtual", ["fd77:6465:7600:4::5"], []),
        ("ha", {"clusters.main.endpoint.kind": "node"}, "node", ["10.213.4.10"], []),
        ("sno", {"clusters.main.endpoint.kind": "virtual"}, "virtual", ["10.213.4.5"], []),
        (
            "ha-dualstack6-static",
            {"clusters.main.endpoint": {"kind": "external", "addresses": ["192.0.2.7", "2001:db8::7"]}},
            "external",
            ["2001:db8::7", "192.0.2.7"],
            ["2001:db8::7", "192.0.2.7"],
        ),
    ],
)
def test_endpoint_variables_follow_from_its_kind(
    name: str, overrides: dict[str, Any], kind: str, endpoint: list[str], before: list[str]
) -> None:
    resolved = resolve(name, overrides=overrides)
    network = network_plan.make(resolved, {family: SUBNETS[family] for family in resolved["families"]})
    for host in inventory.build(resolved, network, STATE)["hosts"].values():
        assert (host["devenv_endpoint_kind"], host["devenv_endpoint_addresses"]) == (kind, endpoint)
        assert host["devenv_virtual_addresses"] == list(network["clusters"]["main"]["virtual"].values())
    for host in inventory.build(resolved, None, STATE)["hosts"].values():
        assert (host["devenv_endpoint_kind"], host["devenv_endpoint_addresses"]) == (kind, before)
        assert host["devenv_virtual_addresses"] == []


TWO_AND_A_BARE_ONE = {
    "clusters": {"blue": {}, "big-red": {}},
    "nodes": {
        "master-0": {"cluster": "blue"},
        "master-1": {"cluster": "big-red"},
        "worker-0": {"cluster": "big-red", "labels": {"pipe": "true"}},
        "worker-1": {"cluster": None},
    },
}


def test_bare_nodes_are_in_no_cluster_group() -> None:
    resolved = resolve("sno", overrides=TWO_AND_A_BARE_ONE)
    built = inventory.build(resolved, network_plan.make(resolved, SUBNETS), STATE)
    assert built["groups"] == {
        "nodes": ["master-0", "master-1", "worker-0", "worker-1"],
        "control_plane": ["master-0", "master-1"],
        "workers": ["worker-0"],
        "bare": ["worker-1"],
        "leaving": [],
        "cluster_blue": ["master-0"],
        "cluster_big_red": ["master-1", "worker-0"],
        "label_pipe": ["worker-0"],
    }
    hosts = built["hosts"]
    assert [hosts[name]["devenv_endpoint"] for name in hosts] == [
        "blue.lab.devenv.internal",
        "big-red.lab.devenv.internal",
        "big-red.lab.devenv.internal",
        "",
    ]
    assert hosts["worker-0"]["devenv_endpoint_addresses"] == ["10.213.4.11"]
    assert hosts["worker-0"]["devenv_virtual_addresses"] == ["10.213.4.6"]
    bare = {key: hosts["worker-1"][key] for key in hosts["worker-1"] if key.startswith("devenv_")}
    assert (bare["devenv_cluster"], bare["devenv_kubeconfig"], bare["devenv_endpoint_kind"]) == ("", "", "")
    assert bare["devenv_endpoint_addresses"] == bare["devenv_virtual_addresses"] == []
    assert bare["devenv_addresses"] == ["10.213.4.13"]


def test_leaving_nodes_are_only_in_the_group_leaving() -> None:
    before = resolve("ha")
    network = network_plan.make(before, SUBNETS)
    resolved = resolve("ha", overrides={"nodes.master-0": None, "nodes.worker-0": None})
    built = inventory.build(resolved, network, STATE)
    assert built["groups"]["leaving"] == ["master-0", "worker-0"]
    for group, members in built["groups"].items():
        assert group == "leaving" or not {"master-0", "worker-0"} & set(members)
    old = inventory.build(before, network, STATE)["hosts"]
    profile_keys = {
        "devenv_labels",
        "devenv_taints",
        "devenv_schedulable",
        "devenv_cpus",
        "devenv_memory",
        "devenv_disk",
    }
    for name in ("master-0", "worker-0"):
        leaving = built["hosts"][name]
        assert set(leaving) == set(old[name])
        assert {key: leaving[key] for key in leaving if key not in profile_keys} == {
            key: old[name][key] for key in leaving if key not in profile_keys
        }
    again = network_plan.forget(network_plan.make(resolved, SUBNETS, network), built["groups"]["leaving"])
    assert list(inventory.build(resolved, again, STATE)["hosts"]) == ["master-1", "master-2", "worker-1"]


def test_the_first_claimed_master_is_the_endpoint() -> None:
    resolved = resolve("ha", overrides={"clusters.main.endpoint.kind": "node", "nodes.master-0": None})
    network = network_plan.make(resolve("ha"), SUBNETS)
    assert inventory.build(resolved, network, STATE)["hosts"]["worker-0"]["devenv_endpoint_addresses"] == [
        "10.213.4.11"
    ]


def test_each_key_of_a_node_is_restored_from_the_variables() -> None:
    resolved = resolve("aio")
    resolved["nodes"][0].update({"image": "localhost/mine:1", "base_image": "mine", "node_type": "worker"})
    missing = set(Node.__annotations__) - set(resolved["nodes"][0])
    assert missing == {"host"}  # tested with the provider existing
    built = inventory.build(resolved, None, STATE)
    variables = {**built["vars"], "hostvars": built["hosts"], "groups": built["groups"]}
    assert inventory.profile_of(variables) == resolved


@pytest.mark.parametrize("name", ["ha-dualstack-dhcp", "aio", "tna"])
def test_the_profile_is_restored_from_the_variables(name: str) -> None:
    resolved = resolve(name, overrides={"nodes.master-0.taints": ["a=b:NoSchedule"]})
    network = network_plan.make(resolved, {family: SUBNETS[family] for family in resolved["families"]})
    network["nodes"]["worker-9"] = {**network["nodes"]["master-0"], "index": 99}
    built = inventory.build(resolved, network, STATE)
    variables = {**built["vars"], "hostvars": built["hosts"], "groups": built["groups"]}
    assert built["groups"]["leaving"] == ["worker-9"]
    assert inventory.profile_of(variables) == resolved
    bare = resolve("sno", overrides=TWO_AND_A_BARE_ONE)
    built = inventory.build(bare, None, STATE)
    variables = {**built["vars"], "hostvars": built["hosts"], "groups": built["groups"]}
    assert inventory.profile_of(variables) == bare
    assert inventory.profile_of({**variables, "devenv_profile": bare}) == bare
    assert inventory.profile_of({"hostvars": {}}) is None


def test_label_groups_have_valid_names() -> None:
    built = made("sno", **{"nodes.master-0.labels.example.com/my-role": "x"})
    assert built["groups"]["label_example_com_my_role"] == ["master-0"]


# --- the static file and the listing ---------------------------------------------------------------------------------


def test_plain_ansible_reads_the_static_inventory(tmp_path: Path) -> None:
    built = made()
    path = tmp_path / "inventory.yml"
    path.write_text(inventory.to_yaml(built))
    done = run("ansible-inventory", "-i", str(path), "--list", ANSIBLE_NOCOLOR="1")
    assert done.stderr == ""
    listed = json.loads(done.stdout)
    expected = inventory.to_json(built)
    assert listed["_meta"]["hostvars"] == expected["_meta"]["hostvars"]
    for group, members in built["groups"].items():
        assert expected[group]["hosts"] == members
        # An empty group is not listed.
        assert listed.get(group, {"hosts": []})["hosts"] == members
    assert sorted(expected["all"]["children"]) == sorted(listed["all"]["children"])


def test_templates_in_values_stay_text(tmp_path: Path) -> None:
    state = "/state/{{ lookup('pipe', 'id') }}/{% raw %}/{# x #}/lab"
    path = tmp_path / "inventory.yml"
    path.write_text(inventory.to_yaml(made(state=state)))
    done = run("ansible", "-i", str(path), "master-0", "-m", "ansible.builtin.debug", "-a", "var=devenv_kubeconfig")
    assert f"{state}/clusters/main/kubeconfig" in json.loads(done.stdout.partition("=>")[2])["devenv_kubeconfig"]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_state_folder_survives_yaml(text: str) -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!unsafe", lambda loader, node: str(node.value))
    built = inventory.build(RESOLVED, NETWORK, f"/{text}/lab")
    tree = yaml.load(inventory.to_yaml(built), Loader=Loader)
    assert tree["all"]["vars"] == built["vars"]
    assert tree["all"]["hosts"] == built["hosts"]


# --- ssh -------------------------------------------------------------------------------------------------------------


def test_control_path_lies_in_the_state_folder() -> None:
    assert ssh_options.control_path("/root/x/aio") == "/root/x/aio/ssh/cp/%C"


@pytest.mark.parametrize("length", range(1, 140))
def test_sockets_fit_whatever_the_length(length: int) -> None:
    state = "/" + "s" * length
    path = ssh_options.control_path(state).replace("%C", "f" * 40)
    # What ssh binds to first.
    assert len(path + "." + "x" * 16) < 108
    long_path = f"{state}/ssh/cp/{'f' * 40}"
    assert (path == long_path) == (len(long_path) + 17 < 108), "short only when it must be"


def test_short_control_paths_differ_and_stay_the_same() -> None:
    first, second = (f"/{'s' * 90}/{name}" for name in ("a", "b"))
    assert ssh_options.control_path(first) == ssh_options.control_path(Path(first))
    assert ssh_options.control_path(first) != ssh_options.control_path(second)
    assert ssh_options.control_path(first).startswith(f"/tmp/devenv-{os.getuid()}-")


def test_control_folder_is_private(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    short = ssh_options.prepare_control_folder(tmp_path / "s")
    (tmp_path / ("l" * 90)).mkdir()
    long = ssh_options.prepare_control_folder(tmp_path / ("l" * 90))
    try:
        for folder in (short, long):
            assert folder.stat().st_mode & 0o777 == 0o700
        assert long.parent == Path("/tmp")
        assert ssh_options.prepare_control_folder(tmp_path / ("l" * 90)) == long
        long.chmod(0o755)
        with pytest.raises(DevenvError) as caught:
            ssh_options.prepare_control_folder(tmp_path / ("l" * 90))
        assert caught.value.reason.id == "ssh_folder"
    finally:
        long.rmdir()


def test_a_link_in_place_of_the_control_folder_is_refused(tmp_path: Path) -> None:
    state = tmp_path / ("l" * 90)
    state.mkdir()
    folder = Path(ssh_options.control_path(state)).parent
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    try:
        with pytest.raises(DevenvError):
            ssh_options.prepare_control_folder(state)
    finally:
        folder.unlink()


@pytest.mark.parametrize(
    "state",
    ["/a/b", "/with blank/b", "/per%cent/b", "/quo'te/b", '/double"quote/b', "/back\\slash/b", "/dollar$HOME/b"],
)
def test_ssh_itself_reads_the_options(state: str) -> None:
    words = shlex.split(ssh_options.common_args(state))
    done = subprocess.run(["ssh", "-G", *words, "node"], capture_output=True, text=True, check=True)
    options = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    assert options["stricthostkeychecking"] in ("true", "yes")
    assert options["identitiesonly"] == "yes"
    assert options["userknownhostsfile"].strip('"').replace("%%", "%") == f"{state}/ssh/known_hosts"
    assert options["controlpath"].startswith(f"{state}/ssh/cp/")
    assert "%C" not in options["controlpath"]
