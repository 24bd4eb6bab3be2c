"""Demands of tests: what is accepted, what is refused, and the resulting profile."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve_document
from support.demands import forget_registered, problems_of

from devenv.testing import cluster, demand, demand_parse, hardware_config
from devenv.testing.installers import catalogue

PLAIN: dict[str, Any] = {
    "hardware": {"host1": {}, "host2": {}, "host3": {}},
    "grouping": {"cluster1": {"hosts": ["host1", "host2"]}},
}


@pytest.fixture(autouse=True)
def _no_registered_installers(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_registered(monkeypatch)


def resolved(requested: demand.Demand) -> dict[str, Any]:
    return resolve_document(demand.profile_document(requested), "test")


def test_first_host_of_a_cluster_is_its_master_and_a_host_without_cluster_is_bare() -> None:
    requested = demand_parse.parse(PLAIN)
    assert requested.node_names == {"host1": "master-0", "host2": "worker-0", "host3": "worker-1"}
    assert requested.cluster_names == {"cluster1": "main"}
    profile = resolved(requested)
    assert [(node["name"], node["cluster"]) for node in profile["nodes"]] == [
        ("master-0", "main"),
        ("worker-0", "main"),
        ("worker-1", None),
    ]
    assert profile["kubernetes"]["engine"] == "kubeadm"


def test_a_demand_without_a_cluster_has_no_engine() -> None:
    requested = demand_parse.parse({"hardware": {"host1": {"base_image": "ubuntu_clean"}}})
    profile = resolved(requested)
    assert profile["clusters"] == {}
    assert [(node["name"], node["cluster"]) for node in profile["nodes"]] == [("worker-0", None)]
    assert requested.engine == ""


def test_node_names_depend_on_the_order_in_the_test_alone() -> None:
    arguments = {
        "hardware": {name: {} for name in ("b", "a", "d", "c")},
        "grouping": {"two": {"hosts": ["d", "c"]}, "one": {"hosts": ["a"]}},
    }
    expected = {"b": "worker-1", "a": "master-1", "d": "master-0", "c": "worker-0"}
    assert demand_parse.parse(arguments).node_names == expected


def test_parsing_does_not_change_the_arguments() -> None:
    arguments = {
        "hardware": {"host1": {"ram": 4, "k3s_config": {"role": "master", "labels": {"a": "b"}}, "labels": {"c": "d"}}},
        "grouping": {"cluster1": {"hosts": ["host1"], "installer": "core_k8s"}},
    }
    before = copy.deepcopy(arguments)
    first = demand_parse.parse(arguments)
    demand.profile_document(first)["nodes"]["master-0"]["labels"]["e"] = "f"
    assert arguments == before
    assert demand_parse.parse(arguments) == first


def test_the_decorator_copies_its_arguments() -> None:
    hardware = {"host1": {"installer": "ssh"}}
    marker = hardware_config(hardware=hardware)
    hardware["host1"].pop("installer")
    assert marker.kwargs == {"hardware": {"host1": {"installer": "ssh"}}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hardware": {"host1": {"ramm": 4}}}, "hardware.host1: unknown key ramm; the nearest is ram"),
        ({"hardware": {"hardware_type": "vm"}}, "hardware.hardware_type: must be a mapping of keys, is \"vm\""),
        ({"hardware": {"1host": {}}}, "hardware.1host: is not a valid name of a host"),
        ({"hardware": {"host1": {"hardware_type": "abacus"}}}, "hardware.host1.hardware_type: \"abacus\" is unknown"),
        ({"hardware": {"host1": {"hardware_type": "ai_camera"}}}, "ai_camera needs an allocator that has"),
        ({"hardware": {"host1": {"gpus": 1}}}, "hardware.host1.gpus: needs an allocator that has it"),
        ({"hardware": {"host1": {"base_image": "windows"}}}, "base_image: \"windows\" is unknown; known: auto"),
        ({"hardware": {"host1": {"installer": "k3s"}}}, "installer: k3s is unknown; known: core_docker, core_k8s"),
        ({"hardware": {"host1": {"installer": "k8s"}}}, "k8s is for clusters, but the host is in no cluster"),
        ({"hardware": {"host1": {"role": "master"}}}, "hardware.host1.role: the host is in no cluster"),
        ({"hardware": {"host1": {"labels": {"a": "b"}}}}, "labels and taints are for hosts of a cluster"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": ["host2"]}}}, "host2 is not declared in hardware"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": []}}}, "grouping.c.hosts: the cluster has no host"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {}}}, "grouping.c.hosts: the cluster has no host"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": "host1"}}}, "c.hosts: must be a list of names"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": ["host1", "host1"]}}}, "host1 is listed twice"),
        (
            {"hardware": {"host1": {}}, "grouping": {"c": {"hosts": ["host1"]}, "d": {"hosts": ["host1"]}}},
            "grouping.d.hosts: host1 already belongs to c",
        ),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": ["host1"], "kind": 1}}}, "c: unknown key kind"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": ["host1"], "installer": "ssh"}}}, "ssh is for hosts"),
        ({"grouping": {"c": {"template": "hq-hb"}}}, "template: hq-hb is unknown; allowed: 4control"),
        ({"grouping": {"c": {"template": "hq-ha", "hosts": ["a"]}}}, "hq-ha has 3 nodes, but 1 hosts are listed"),
        (
            {"hardware": {"host1": {"role": "node"}}, "grouping": {"c": {"hosts": ["host1"]}}},
            "grouping.c: none of its hosts is a master",
        ),
        (
            {"hardware": {"host1": {"memory": "1MiB"}}, "grouping": {"c": {"hosts": ["host1"]}}},
            "hardware.host1.memory: must be at least",
        ),
        (
            {"hardware": {"host1": {"labels": {"a b": "c"}}}, "grouping": {"c": {"hosts": ["host1"]}}},
            "hardware.host1.labels",
        ),
        ({"hardware": {"host1": {"k3s_config": {"rank": 1}}}}, "k3s_config: must be a mapping of role, labels, taints"),
        ({"hardware": {"host1": {"k3s_config": {"labels": 1}}}}, "host1.k3s_config.labels: must be a mapping, is 1"),
        ({"hardware": {"host1": {"labels": "a=b"}}}, "hardware.host1.labels: must be a mapping, is \"a=b\""),
        ({"hardware": {"host1": {"cpus": b"2"}}}, "hardware.host1: has a value that is not JSON"),
        ({"hardware": {"host1": 7}}, "hardware.host1: must be a mapping of keys, is 7"),
        ({"hardware": {"host1": {}}, "scope": "class"}, "scope: \"class\" is unknown; allowed: function"),
        ({"hardware": {"host1": {}}, "timeout": "1 h"}, "timeout: must be a number of seconds"),
        ({"hardware": {}}, "hardware: no host is requested"),
        ({"hardware": ["host1"]}, "hardware: must be a mapping"),
        ({"hardwear": {}}, "unknown argument hardwear"),
        ({"hardware": {"host1": {}}, "grouping": {"C": {"hosts": ["host1"]}, "c": {"hosts": []}}}, "no host"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_its_place(arguments: dict[str, Any], message: str) -> None:
    assert message in "\n".join(problems_of(arguments))


def test_a_topology_with_an_arbiter_is_accepted_as_a_template() -> None:
    assert len(demand_parse.parse({"grouping": {"c": {"template": "tna"}}}).hosts) == 3


def test_all_problems_are_reported_at_once() -> None:
    arguments = {"hardware": {"host1": {"a": 1}, "host2": {"b": 1, "gpu": 2}}}
    assert len(problems_of(arguments)) == 3


def test_a_template_determines_number_roles_and_labels_of_hosts() -> None:
    requested = demand_parse.parse({"hardware": cluster("master-2pipe")})
    assert [host.name for host in requested.hosts] == ["host1", "host2", "host3"]
    assert requested.roles == {"host1": "master", "host2": "worker", "host3": "worker"}
    assert [node["labels"] for node in resolved(requested)["nodes"]] == [{}, {"pipe": "true"}, {"pipe": "true"}]


def test_hosts_of_a_template_get_names_that_are_not_declared() -> None:
    arguments = {
        "hardware": {"host2": {"memory": "4GiB"}, "other": {}},
        "grouping": {"a": cluster("aio", hosts=["host2"]), "b": cluster("hq_ha"), "c": {"hosts": ["other"]}},
    }
    requested = demand_parse.parse(arguments)
    assert {cluster.name: cluster.hosts for cluster in requested.clusters} == {
        "a": ("host2",),
        "b": ("host1", "host3", "host4"),
        "c": ("other",),
    }
    profile = resolved(requested)
    assert [node["group"] for node in profile["nodes"]] == ["control_plane"] * 5
    assert profile["nodes"][0]["memory"] == 4 << 30
    assert profile["nodes"][0]["labels"]["memsql"] == "true"


def test_keys_of_other_labs_are_translated() -> None:
    arguments = {
        "hardware": {
            "host1": {"k3s_config": {"role": "node", "labels": {"pipe": "true"}, "taints": ["a=b:NoSchedule"]}},
            "host2": {"role": "master", "ram": 4, "size": 30, "cpus": 4, "node_type": "db", "hardware_type": "vm"},
        },
        "grouping": {"cluster1": {"hosts": ["host1", "host2"]}},
    }
    # Containers have no disk of their own.
    document = demand.profile_document(demand_parse.parse(arguments))
    master, worker = resolve_document(document, "test", overrides={"provider": "libvirt"})["nodes"]
    assert (master["name"], master["memory"], master["disk"], master["cpus"]) == ("master-0", 4 << 30, 30 << 30, 4)
    assert master["labels"] == {demand.NODE_TYPE_LABEL: "db", "db": "true"}
    assert (worker["name"], worker["labels"], worker["taints"]) == ("worker-0", {"pipe": "true"}, ["a=b:NoSchedule"])


@pytest.mark.parametrize("types", [["pipe"], ["pipe", "memsql"]])
@pytest.mark.parametrize(("installer", "node_type"), [("k8s", None), ("devops_gravity", "pipe")])
def test_a_node_can_have_several_types(types: list[str], installer: str, node_type: str | None) -> None:
    """Each is a label, as selectors of applications expect it; Gravity gives a node one node profile, the first."""
    grouping = {"c": {"hosts": ["m", "w"], "installer": installer}}
    requested = demand_parse.parse({"hardware": {"m": {}, "w": {"node_type": types}}, "grouping": grouping})
    worker = resolved(requested)["nodes"][1]
    assert worker.get("node_type") == node_type
    assert {key: worker["labels"].get(key) for key in types} == dict.fromkeys(types, "true")


def test_the_most_specific_installer_is_used() -> None:
    """A cluster's own, that of its hosts, the module's, k8s; a bare host has the module's or none."""

    def installers(hardware: dict[str, Any], group: dict[str, Any], **module: str) -> list[str]:
        grouping = {"c": {"hosts": ["host1"], **group}}
        requested = demand_parse.parse({"hardware": hardware, "grouping": grouping}, **module)
        return [requested.clusters[0].installer, *(host.installer for host in requested.hosts)]

    assert installers({"host1": {}}, {}) == ["k8s", ""]
    assert installers({"host1": {}}, {}, cluster_installer="core_k8s") == ["core_k8s", ""]
    assert installers({"host1": {"installer": "devops_k8s"}}, {}, cluster_installer="core_k8s") == ["devops_k8s", ""]
    assert installers({"host1": {"installer": "devops_k8s"}}, {"installer": "k8s"}) == ["k8s", ""]
    assert installers({"host1": {}, "host2": {}}, {}, installer="ssh") == ["k8s", "", "ssh"]


def test_the_profile_has_the_keys_of_an_installer_and_its_needs() -> None:
    grouping = {"c": {"hosts": ["h"], "installer": "devops_k8s"}}
    requested = demand_parse.parse({"hardware": {"h": {}}, "grouping": grouping})
    profile = resolved(requested)
    assert profile["storage"]["enabled"]
    assert profile["metrics"]["enabled"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("other", "other needs the engine other, which does not exist"), ("", "none has no engine to create a cluster")],
)
def test_an_installer_without_a_usable_engine_is_refused(name: str, message: str) -> None:
    class Other(catalogue.Installer):
        engine = name

    catalogue.register_installer(name or "none", Other)
    arguments = {"hardware": {"h": {}}, "grouping": {"c": {"hosts": ["h"], "installer": name or "none"}}}
    assert problems_of(arguments) == [f"grouping.c.installer: {message}"]


def test_a_fourth_gravity_master_is_refused_but_not_a_missing_tarball() -> None:
    """The tarball is a setting of the run, and an existing environment needs none."""
    hosts = {f"h{number}": {"role": "master"} for number in range(3)}
    grouping = {"c": {"hosts": list(hosts), "installer": "devops_gravity"}}
    assert demand_parse.parse({"hardware": hosts, "grouping": grouping}).engine == "gravity"
    hosts["h3"] = {"role": "master"}
    (problem,) = problems_of({"hardware": hosts, "grouping": {"c": {**grouping["c"], "hosts": list(hosts)}}})
    assert problem == "grouping.c: the engine gravity supports at most 3 masters, not 4"


def test_two_engines_in_one_environment_are_refused() -> None:
    arguments = {
        "hardware": {"a": {}, "b": {}},
        "grouping": {"c": {"hosts": ["a"]}, "d": {"hosts": ["b"], "installer": "devops_gravity"}},
    }
    assert problems_of(arguments) == ["grouping: an environment has one engine, but these are needed: gravity, kubeadm"]


def test_scope_and_timeout_do_not_change_the_digest() -> None:
    scoped = demand_parse.parse({**PLAIN, "scope": "module", "timeout": 5})
    plain = demand_parse.parse(PLAIN)
    larger = demand_parse.parse({**PLAIN, "hardware": {**PLAIN["hardware"], "host3": {"cpus": 4}}})
    assert scoped.digest == plain.digest != larger.digest
    assert (scoped.scope, scoped.timeout) == ("module", 5.0)
