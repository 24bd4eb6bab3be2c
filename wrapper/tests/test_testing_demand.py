"""What a test may ask for, what is refused, and the profile that comes of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve_document

from devenv.testing import cluster, demand, demand_parse, demand_profile, hardware_config
from devenv.testing.installers import catalogue, images, steps

SEED: dict[str, Any] = {
    "hardware": {"host1": {}, "host2": {}, "host3": {}},
    "grouping": {"cluster1": {"hosts": ["host1", "host2"]}},
}


@pytest.fixture(autouse=True)
def _own_installers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_registered", {})


def refused(said: Mapping[str, Any], **words: Any) -> list[str]:
    with pytest.raises(demand.DemandError) as caught:
        demand_parse.parse(said, **words)
    return list(caught.value.problems)


def resolved(found: demand.Demand) -> dict[str, Any]:
    return resolve_document(demand_profile.profile_document(found), "test")


def test_the_seeds_decorator() -> None:
    """The first host of a cluster is its master, a host of no cluster a bare node of the same environment."""
    found = demand_parse.parse(SEED)
    assert demand_profile.node_names(found) == {"host1": "master-0", "host2": "worker-0", "host3": "worker-1"}
    assert demand_profile.cluster_names(found) == {"cluster1": "main"}
    whole = resolved(found)
    assert [(node["name"], node["cluster"]) for node in whole["nodes"]] == [
        ("master-0", "main"),
        ("worker-0", "main"),
        ("worker-1", None),
    ]
    assert whole["kubernetes"]["engine"] == "kubeadm"


def test_hosts_without_a_cluster() -> None:
    found = demand_parse.parse({"hardware": {"host1": {"base_image": "ubuntu_clean"}}})
    whole = resolved(found)
    assert whole["clusters"] == {}
    assert [(node["name"], node["cluster"]) for node in whole["nodes"]] == [("worker-0", None)]
    assert found.engine == ""


def test_the_names_of_nodes_follow_from_the_tests_words_alone() -> None:
    """Not from what an allocator answers, in whatever order."""
    said = {
        "hardware": {name: {} for name in ("b", "a", "d", "c")},
        "grouping": {"two": {"hosts": ["d", "c"]}, "one": {"hosts": ["a"]}},
    }
    expected = {"b": "worker-1", "a": "master-1", "d": "master-0", "c": "worker-0"}
    assert demand_profile.node_names(demand_parse.parse(said)) == expected


def test_what_the_test_said_is_never_changed() -> None:
    said = {
        "hardware": {"host1": {"ram": 4, "k3s_config": {"role": "master", "labels": {"a": "b"}}, "labels": {"c": "d"}}},
        "grouping": {"cluster1": {"hosts": ["host1"], "installer": "core_k8s"}},
    }
    before = copy.deepcopy(said)
    first = demand_parse.parse(said)
    demand_profile.profile_document(first)["nodes"]["master-0"]["labels"]["e"] = "f"
    assert said == before
    assert demand_parse.parse(said) == first


def test_the_decorator_keeps_a_copy() -> None:
    hardware = {"host1": {"installer": "ssh"}}
    marker = hardware_config(hardware=hardware)
    hardware["host1"].pop("installer")
    assert marker.kwargs == {"hardware": {"host1": {"installer": "ssh"}}}


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"hardware": {"host1": {"ramm": 4}}}, "hardware.host1: unknown key ramm; the nearest is ram"),
        ({"hardware": {"hardware_type": "vm"}}, "hardware.hardware_type: must be a mapping of keys, is \"vm\""),
        ({"hardware": {"1host": {}}}, "hardware.1host: no name for a host"),
        ({"hardware": {"host1": {"hardware_type": "abacus"}}}, "hardware.host1.hardware_type: \"abacus\" is not known"),
        ({"hardware": {"host1": {"hardware_type": "ai_camera"}}}, "ai_camera is not to be had here"),
        ({"hardware": {"host1": {"gpus": 1}}}, "hardware.host1.gpus: this machine's nodes have no such choice"),
        ({"hardware": {"host1": {"base_image": "windows"}}}, "base_image: \"windows\" is not known; known: auto"),
        ({"hardware": {"host1": {"installer": "k3s"}}}, "installer: k3s is not known; known: core_k8s"),
        ({"hardware": {"host1": {"installer": "k8s"}}}, "k8s is for clusters, and no cluster has this host"),
        ({"hardware": {"host1": {"role": "master"}}}, "hardware.host1.role: no cluster has this host"),
        ({"hardware": {"host1": {"labels": {"a": "b"}}}}, "labels and taints are for hosts of a cluster"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": ["host2"]}}}, "host2 is not declared in hardware"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": []}}}, "grouping.c.hosts: the cluster has no host"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {}}}, "grouping.c.hosts: the cluster has no host"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": "host1"}}}, "c.hosts: must be a list of names"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": ["host1", "host1"]}}}, "host1 stands twice"),
        (
            {"hardware": {"host1": {}}, "grouping": {"c": {"hosts": ["host1"]}, "d": {"hosts": ["host1"]}}},
            "grouping.d.hosts: host1 belongs to c already",
        ),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": ["host1"], "kind": 1}}}, "c: unknown key kind"),
        ({"hardware": {"host1": {}}, "grouping": {"c": {"hosts": ["host1"], "installer": "ssh"}}}, "ssh is for hosts"),
        ({"grouping": {"c": {"template": "hq-hb"}}}, "template: hq-hb is not known; allowed: 4control"),
        ({"grouping": {"c": {"template": "hq-ha", "hosts": ["a"]}}}, "hq-ha has 3 nodes, and 1 are named"),
        ({"grouping": {"c": {"template": "tna"}}}, "none"),
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
        ({"hardware": {"host1": {}}, "scope": "class"}, "scope: \"class\" is not known; allowed: function"),
        ({"hardware": {"host1": {}}, "timeout": "1 h"}, "timeout: must be a number of seconds"),
        ({"hardware": {}}, "hardware: no host is asked for"),
        ({"hardware": ["host1"]}, "hardware: must be a mapping"),
        ({"hardwear": {}}, "unknown argument hardwear"),
        ({"hardware": {"host1": {}}, "grouping": {"C": {"hosts": ["host1"]}, "c": {"hosts": []}}}, "no host"),
    ],
)  # fmt: skip
def test_refused(said: dict[str, Any], wanted: str) -> None:
    if wanted == "none":
        # An arbiter is what no engine here has; the template is known all the same.
        assert demand_parse.parse(said).clusters[0].template == "tna"
        return
    assert wanted in "\n".join(refused(said))


def test_all_problems_are_told_at_once() -> None:
    said = {"hardware": {"host1": {"a": 1}, "host2": {"b": 1, "gpu": 2}}}
    assert len(refused(said)) == 3


def test_a_template_names_masters_labels_and_how_many() -> None:
    found = demand_parse.parse({"hardware": cluster("master-2pipe")})
    assert [host.name for host in found.hosts] == ["host1", "host2", "host3"]
    assert demand_profile.roles(found) == {"host1": "master", "host2": "worker", "host3": "worker"}
    assert [node["labels"] for node in resolved(found)["nodes"]] == [{}, {"pipe": "true"}, {"pipe": "true"}]


def test_templates_beside_hosts_that_are_declared() -> None:
    said = {
        "hardware": {"host2": {"memory": "4GiB"}, "other": {}},
        "grouping": {"a": cluster("aio", hosts=["host2"]), "b": cluster("hq_ha"), "c": {"hosts": ["other"]}},
    }
    found = demand_parse.parse(said)
    assert {one.name: one.hosts for one in found.clusters} == {
        "a": ("host2",),
        "b": ("host1", "host3", "host4"),
        "c": ("other",),
    }
    whole = resolved(found)
    assert [node["group"] for node in whole["nodes"]] == ["control_plane"] * 5
    assert whole["nodes"][0]["memory"] == 4 << 30
    assert whole["nodes"][0]["labels"]["memsql"] == "true"


def test_roles_labels_and_sizes_of_other_labs() -> None:
    said = {
        "hardware": {
            "host1": {"k3s_config": {"role": "node", "labels": {"pipe": "true"}, "taints": ["a=b:NoSchedule"]}},
            "host2": {"role": "master", "ram": 4, "size": 30, "cpus": 4, "node_type": "db", "hardware_type": "vm"},
        },
        "grouping": {"cluster1": {"hosts": ["host1", "host2"]}},
    }
    one, two = resolved(demand_parse.parse(said))["nodes"]
    assert (one["name"], one["memory"], one["disk"], one["cpus"]) == ("master-0", 4 << 30, 30 << 30, 4)
    assert one["labels"] == {demand.NODE_TYPE_LABEL: "db"}
    assert (two["name"], two["labels"], two["taints"]) == ("worker-0", {"pipe": "true"}, ["a=b:NoSchedule"])


def test_installers_are_derived() -> None:
    """The cluster's own, that of its hosts, the module's, k8s; a bare host has the module's or none."""

    def of(hardware: dict[str, Any], group: dict[str, Any], **module: str) -> list[str]:
        found = demand_parse.parse({"hardware": hardware, "grouping": {"c": {"hosts": ["host1"], **group}}}, **module)
        return [found.clusters[0].installer, *(host.installer for host in found.hosts)]

    assert of({"host1": {}}, {}) == ["k8s", ""]
    assert of({"host1": {}}, {}, cluster_installer="core_k8s") == ["core_k8s", ""]
    assert of({"host1": {"installer": "devops_k8s"}}, {}, cluster_installer="core_k8s") == ["devops_k8s", ""]
    assert of({"host1": {"installer": "devops_k8s"}}, {"installer": "k8s"}) == ["k8s", ""]
    assert of({"host1": {}, "host2": {}}, {}, installer="ssh") == ["k8s", "", "ssh"]


def test_an_installers_needs_reach_the_profile() -> None:
    found = demand_parse.parse({"hardware": {"h": {}}, "grouping": {"c": {"hosts": ["h"], "installer": "devops_k8s"}}})
    whole = resolved(found)
    assert whole["storage"]["enabled"]
    assert whole["metrics"]["enabled"]


def test_gravity_is_refused_while_there_is_no_such_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"hardware": {"h": {}}, "grouping": {"c": {"hosts": ["h"], "installer": "devops_gravity"}}}
    monkeypatch.setattr(catalogue, "is_built", lambda engine: engine != "gravity")
    assert refused(said) == ["grouping.c.installer: devops_gravity needs engine gravity, not built yet"]


def test_what_gravity_cannot_make_is_refused_and_its_tarball_is_the_runs() -> None:
    """Collection knows no tarball, and an environment that is there needs none."""
    hosts = {f"h{number}": {"role": "master"} for number in range(3)}
    grouping = {"c": {"hosts": list(hosts), "installer": "devops_gravity"}}
    assert demand_parse.parse({"hardware": hosts, "grouping": grouping}).engine == "gravity"
    hosts["h3"] = {"role": "master"}
    (problem,) = refused({"hardware": hosts, "grouping": {"c": {**grouping["c"], "hosts": list(hosts)}}})
    assert problem == "grouping.c: the engine gravity supports at most 3 masters, not 4"


def test_one_environment_has_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(catalogue.Installer):
        engine = "other"

    catalogue.register("other", Other)
    monkeypatch.setattr(catalogue, "is_built", lambda engine: True)
    said = {
        "hardware": {"a": {}, "b": {}},
        "grouping": {"c": {"hosts": ["a"]}, "d": {"hosts": ["b"], "installer": "other"}},
    }
    assert refused(said) == ["grouping: one environment has one engine, and these are kubeadm, other"]


def test_equal_demands_have_one_digest_whatever_their_scope() -> None:
    one = demand_parse.parse({**SEED, "scope": "module", "timeout": 5})
    two = demand_parse.parse(SEED)
    three = demand_parse.parse({**SEED, "hardware": {**SEED["hardware"], "host3": {"cpus": 4}}})
    assert one.digest == two.digest != three.digest
    assert (one.scope, one.timeout) == ("module", 5.0)


def test_base_images_are_documented_and_give_sizes() -> None:
    assert {"k8s_base", "gravity_base", "gravity_infra_230", "automation_infra_1.0", "ubuntu_clean"} == set(
        images.BUILT_IN
    )
    found = demand_parse.parse(
        {"hardware": {"h": {"base_image": "gravity_infra_230"}, "i": {"base_image": "gravity_base", "ram": 8}}}
    )
    assert [node["memory"] >> 30 for node in resolved(found)["nodes"]] == [4, 8]


# --- installers -------------------------------------------------------------------------------------------------------


def test_what_an_installer_needs_comes_first() -> None:
    assert catalogue.with_needs(["devops_k8s"], catalogue.BUILT_IN) == ["ssh", "k8s", "core_k8s", "devops_k8s"]


def test_needs_that_cannot_be() -> None:
    class Wants(catalogue.Installer):
        needs = ("nothing",)
        engine = "kubeadm"

    class Round(catalogue.Installer):
        needs = ("round",)
        engine = "kubeadm"

    catalogue.register("wants", Wants)
    catalogue.register("round", Round)
    for name, wanted in (("wants", "wants needs nothing, which is not known"), ("round", "installers need each other")):
        said = {"hardware": {"h": {}}, "grouping": {"c": {"hosts": ["h"], "installer": name}}}
        assert wanted in refused(said)[0]


class _Told(catalogue.Installer):
    calls: ClassVar[list[tuple[str, str]]] = []

    def session(self, target: Any, request: Any) -> None:
        self.calls.append((type(self).__name__, target))
        if target == "bad":
            raise RuntimeError("no")


class _Base(_Told):
    on = "host"


class _Top(_Told):
    needs = ("base",)
    engine = "kubeadm"


class _Config:
    def __init__(self, *hosts: str) -> None:
        self.hosts = {name: name for name in hosts}
        self.clusters = {"c": "c", "d": "d"}


def test_stages_go_to_each_target_in_order_and_errors_are_told() -> None:
    _Told.calls.clear()
    catalogue.register("base", _Base)
    catalogue.register("top", _Top)
    said = {
        "hardware": {"good": {}, "bad": {}, "bare": {}},
        "grouping": {"c": {"hosts": ["good"], "installer": "top"}, "d": {"hosts": ["bad"], "installer": "top"}},
    }
    with pytest.raises(steps.StageError, match=r"stage session: installer base on host bad: no$"):
        steps.run_stage("session", _Config("good", "bad", "bare"), demand_parse.parse(said), None)  # type: ignore[arg-type]
    # Nothing of a host without an installer; no cluster whose host failed; the other cluster all the same.
    assert sorted(_Told.calls) == [("_Base", "bad"), ("_Base", "good"), ("_Top", "c")]
