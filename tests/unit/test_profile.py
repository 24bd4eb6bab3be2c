"""Profiles: every canonical name, layers, bad input, overrides, changes."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import catalogue, changes, engines, rules
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as profile_document
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.data import parse_quantity
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from hypothesis import given
from hypothesis import strategies as st

# Control plane nodes, arbiters, workers.
TOPOLOGIES = {
    "aio": (1, 0, 0),
    "sno": (1, 0, 0),
    "compact": (3, 0, 0),
    "ha": (3, 0, 2),
    "hq-ha": (3, 0, 0),
    "master-2pipe": (1, 0, 2),
    "4control": (4, 0, 0),
    "5control": (5, 0, 0),
    "tna": (2, 1, 0),
}
FAMILIES = {
    "ipv4": ["ipv4"],
    "ipv6": ["ipv6"],
    "dualstack": ["ipv4", "ipv6"],
    "dualstack6": ["ipv6", "ipv4"],
}
NAMES = [
    f"{topology}-{stack}-{addressing}"
    for topology in TOPOLOGIES
    for stack in FAMILIES
    for addressing in ("static", "dhcp")
]
SERVICES = ["memsql", "monitor", "pipe", "postgres", "seaweed", "seaweedfs-postgres", "sw-volume"]
DEFAULT_VERSION = yaml.safe_load((paths.CONFIGS / "versions.yml").read_text())["default"]
SCHEMA = json.loads((paths.CONFIGS / "schema" / "profile.json").read_text())


def refused(name: str, **options: Any) -> DevenvError:
    with pytest.raises(DevenvError) as caught:
        resolve(name, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def exit_code(name: str, **options: Any) -> int:
    try:
        resolve(name, **options)
    except DevenvError as error:
        return error.exit_code
    return 0


def node(resolved: dict[str, Any], name: str) -> dict[str, Any]:
    match: dict[str, Any] = next(node for node in resolved["nodes"] if node["name"] == name)
    return match


# --- names -----------------------------------------------------------------------------------------------------------


def test_canonical_names_are_the_expected_ones() -> None:
    assert sorted(profile_names.canonical()) == sorted(NAMES)


def test_aliases_stand_for_canonical_names() -> None:
    assert catalogue.aliases() == {name: f"{name}-ipv4-static" for name in TOPOLOGIES}


@pytest.mark.parametrize("name", NAMES)
def test_every_canonical_name_resolves(name: str) -> None:
    resolved = resolve(name)
    topology, stack, addressing = name.rsplit("-", 2)
    assert (resolved["profile"], resolved["name"]) == (name, name)
    assert (resolved["topology"], resolved["stack"], resolved["addressing"]) == (topology, stack, addressing)
    assert resolved["families"] == FAMILIES[stack]
    groups = [node["group"] for node in resolved["nodes"]]
    assert tuple(map(groups.count, ("control_plane", "arbiters", "workers"))) == TOPOLOGIES[topology]
    assert resolved["provider"] == "podman"
    assert resolved["kubernetes"] == {"version": DEFAULT_VERSION, "engine": "kubeadm"}
    kind = "virtual" if TOPOLOGIES[topology][0] > 1 else "node"
    assert resolved["clusters"] == {"main": {"endpoint": {"kind": kind, "addresses": []}}}
    assert any(node["schedulable"] for node in resolved["nodes"]), "pods have a place"
    even = topology == "4control"
    assert ["etcd members" in text for text in rules.warnings(resolved)] == [True] * even
    assert yaml.safe_load(yaml.safe_dump(resolved)) == resolved, "plain data"


def test_each_topology_has_its_nodes_and_labels() -> None:
    aio, sno, pipes = (resolve(name)["nodes"] for name in ("aio", "sno", "master-2pipe"))
    assert [(node["name"], node["labels"]) for node in aio] == [("master-0", dict.fromkeys(SERVICES, "true"))]
    assert [(node["name"], node["labels"]) for node in sno] == [("master-0", {})]
    assert [(node["name"], node["group"], node["labels"], node["schedulable"]) for node in pipes] == [
        ("master-0", "control_plane", {}, False),
        ("worker-0", "workers", {"pipe": "true"}, True),
        ("worker-1", "workers", {"pipe": "true"}, True),
    ]
    assert aio[0]["schedulable"] is sno[0]["schedulable"] is True
    for node in resolve("hq_ha")["nodes"]:
        assert (node["labels"], node["schedulable"]) == (dict.fromkeys(SERVICES, "true"), True)
    assert resolve("hq_ha")["nodes"] == resolve("hq-ha")["nodes"]
    ha = resolve("ha")["nodes"]
    assert [node["name"] for node in ha if node["schedulable"]] == ["worker-0", "worker-1"]
    assert all(node["schedulable"] and not node["labels"] for node in resolve("compact")["nodes"])
    assert [node["schedulable"] for node in resolve("tna")["nodes"]] == [True, True, False]


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_rejects_what_it_does_not_support(name: str) -> None:
    resolved = resolve(name)
    if resolved["topology"] != "tna":
        engines.require(resolved)
        return
    with pytest.raises(DevenvError, match=r"nodes\.arbiter-0: the engine kubeadm does not support arbiters") as caught:
        engines.require(resolved)
    assert (caught.value.reason.id, caught.value.exit_code) == ("engine_cannot", 2)
    bare = resolve(name, overrides={"nodes.arbiter-0.cluster": None})
    engines.require(bare)


@pytest.mark.parametrize(
    ("requested", "canonical", "name"),
    [
        ("aio", "aio-ipv4-static", "aio"),
        ("master_2pipe", "master-2pipe-ipv4-static", "master-2pipe"),
        ("master-2pipe", "master-2pipe-ipv4-static", "master-2pipe"),
        ("master_2pipe_dualstack_static", "master-2pipe-dualstack-static", "master-2pipe-dualstack-static"),
    ],
)
def test_short_names_and_underscores_resolve_to_canonical_names(requested: str, canonical: str, name: str) -> None:
    resolved = resolve(requested)
    assert (resolved["profile"], resolved["name"]) == (canonical, name)


@pytest.mark.parametrize(
    ("requested", "near"),
    [("aoi", "aio"), ("AIO", "aio"), ("master2pipe", "master-2pipe"), ("aio-ipv4-statc", "aio-ipv4-static")],
)
def test_an_unknown_name_is_rejected_with_the_nearest_one(requested: str, near: str) -> None:
    error = refused(requested)
    assert error.reason.id == "profile_unknown"
    assert error.exit_code == 2
    assert str(error).endswith(f"the nearest name is {near}")


@pytest.mark.parametrize("requested", ["", "zzzzzz", "a b", "--", "aio\n", "..", "%", "é"])
def test_an_unlike_name_is_rejected_without_a_suggestion(requested: str) -> None:
    assert refused(requested).reason.id in ("profile_unknown", "profile_unreadable")


@pytest.mark.parametrize(
    ("requested", "what"),
    [
        ("aio-ipv4-static-disc", "connectivity"),
        ("ha-dualstack6-dhcp-proxy", "connectivity"),
    ],
)
def test_planned_names_are_reported_as_not_built(requested: str, what: str) -> None:
    error = refused(requested)
    assert error.reason.id == "not_built"
    assert what in str(error)
    assert "not built yet" in str(error)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("mine.yml", "mine"),
        ("/a/b/My_Lab.yaml", "my-lab"),
        ("./x.y.yml", "x-y"),
        ("aio", "aio"),
        ("./" + "n" * 60 + ".yml", "n" * 40),
        ("./---.yml", "devenv"),
    ],
)
def test_the_name_of_an_environment_follows_from_the_profile(path: str, name: str) -> None:
    assert profile_names.of_environment(path) == name
    assert profile_names.validate(name) == name


@given(st.text())
def test_default_name_is_always_valid(text: str) -> None:
    profile_names.validate(profile_names.of_environment(text))


@pytest.mark.parametrize("name", ["a", "a-b", "0", "a" * 40, "a1-2b"])
def test_valid_names_are_accepted(name: str) -> None:
    assert profile_names.validate(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a" * 41, "a_b", "a b", "../a", "a\n", "é", "a.b", "{{ a }}"])
def test_invalid_names_are_rejected(name: str) -> None:
    with pytest.raises(DevenvError) as caught:
        profile_names.validate(name)
    assert (caught.value.reason.id, caught.value.exit_code) == ("name_invalid", 2)


@pytest.mark.parametrize(("name", "masters", "workers"), [("sno", 1, 0), ("ha", 3, 2), ("5control", 5, 0)])
def test_usage_is_the_sum_over_all_nodes(name: str, masters: int, workers: int) -> None:
    usage = {group: sizes["in_use"] for group, sizes in engines.traits("kubeadm")["groups"].items()}
    resolved = resolve(name)
    used = engines.in_use(resolved["nodes"], "kubeadm")
    for key in ("memory", "disk", "inotify"):
        master, worker = (parse_quantity(usage[group][key]) for group in ("control_plane", "workers"))
        leader = engines.traits("kubeadm").get("leader_inotify", 0) if key == "inotify" else 0
        assert used[key] == masters * master + workers * worker + leader
    assert used["memory"] < sum(node["memory"] for node in resolved["nodes"])


def test_describe_has_a_row_for_every_name() -> None:
    rows = catalogue.describe()
    assert [row["profile"] for row in rows] == profile_names.canonical()
    pipes = next(row for row in rows if row["profile"] == "master-2pipe-ipv4-static")
    assert pipes["aliases"] == ["master-2pipe"]
    assert (pipes["nodes"], pipes["control_plane"], pipes["workers"], pipes["cpus"]) == (3, 1, 2, 6)
    assert pipes["memory"] == 3 * 2 * 1024**3
    tna = next(row for row in rows if row["profile"] == "tna-ipv6-dhcp")
    assert (tna["nodes"], tna["control_plane"], tna["arbiters"], tna["workers"]) == (3, 2, 1, 0)


# --- data files ------------------------------------------------------------------------------------------------------


def test_schema_is_valid_and_names_the_files() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    properties = SCHEMA["properties"]
    for key, folder in (("topology", "topologies"), ("stack", "networks")):
        assert sorted(properties[key]["enum"]) == sorted(path.stem for path in (paths.CONFIGS / folder).glob("*.yml"))


def schema_keys(rule: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    keys = []
    for kind in ("properties", "patternProperties", "$defs"):
        for key, inner in rule.get(kind, {}).items():
            keys.append((f"{path}/{kind}/{key}", inner))
            keys += schema_keys(inner, f"{path}/{kind}/{key}")
    return keys


@pytest.mark.parametrize(("path", "rule"), schema_keys(SCHEMA))
def test_every_key_of_the_schema_is_described(path: str, rule: dict[str, Any]) -> None:
    # The target of a $ref is described where it is used.
    assert rule.get("description", "").endswith(".") or path.startswith("/$defs") or "$ref" in rule
    if rule.get("type") == "object" and path != "/properties/clusters":
        assert rule.get("additionalProperties") is not None, "an unknown key would be ignored"


@pytest.mark.parametrize("path", sorted((paths.CONFIGS / "topologies").glob("*.yml")), ids=lambda path: path.stem)
def test_topology_files_obey_the_schema(path: Path) -> None:
    document = profile_document.read(path)
    profile_document.validate(document.data, SCHEMA, str(path))
    assert set(document.data) == {"description", "nodes"}


@pytest.mark.parametrize("path", sorted((paths.CONFIGS / "profiles").glob("*.yml")), ids=lambda path: path.stem)
def test_profiles_of_configs_obey_the_schema(path: Path) -> None:
    document = profile_document.read(path)
    profile_document.validate(document.data, SCHEMA, str(path), document.text)


# --- files -----------------------------------------------------------------------------------------------------------


def write(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_file_overrides_the_profile_that_it_extends(tmp_path: Path) -> None:
    mine = write(
        tmp_path,
        "mine.yml",
        """
extends: master-2pipe-dualstack-static
nodes:
  worker-0: {labels: {memsql: "true", pipe: null}, taints: ["dedicated=db:NoSchedule"], memory: 4GiB}
  worker-2: {}
registry: {mirrors: {docker.io: ["http://mirror:5000"]}}
""",
    )
    resolved = resolve(mine)
    assert (resolved["name"], resolved["profile"]) == ("mine", "master-2pipe-dualstack-static")
    first = node(resolved, "worker-0")
    assert first["labels"] == {"memsql": "true"}
    assert first["taints"] == ["dedicated=db:NoSchedule"]
    assert first["memory"] == 4 * 1024**3
    assert node(resolved, "worker-1")["labels"] == {"pipe": "true"}
    assert node(resolved, "worker-2")["labels"] == {}
    assert resolved["registry"] == {"mirrors": {"docker.io": ["http://mirror:5000"]}}


def test_extends_is_relative_to_its_file(tmp_path: Path) -> None:
    write(tmp_path, "base/base.yml", "extends: aio\nstack: dualstack\ndescription: a base\n")
    write(tmp_path, "base/next.yml", "extends: base.yml\nnodes: {master-0: {cpus: 3}}\n")
    write(tmp_path, "mine.yml", "extends: ./base/next.yml\nnodes: {master-0: {memory: 3GiB}}\n")
    resolved = resolve("mine.yml", cwd=tmp_path)
    assert resolved["families"] == ["ipv4", "ipv6"]
    assert (node(resolved, "master-0")["cpus"], node(resolved, "master-0")["memory"]) == (3, 3 * 1024**3)


def test_a_file_needs_no_extends(tmp_path: Path) -> None:
    resolved = resolve(write(tmp_path, "x.yml", "topology: sno\n"))
    assert resolved["profile"] == "sno-ipv4-static"


LAUGHS = "extends: aio\na0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
BAD_FILES: list[tuple[str | bytes, str, str]] = [
    ("", "profile_empty", "empty"),
    ("# nothing\n", "profile_empty", "empty"),
    ("{}\n", "profile_empty", "empty"),
    ("- aio\n", "profile_invalid", "must be a mapping of keys, is a list"),
    ("aio\n", "profile_invalid", 'must be a mapping of keys, is "aio"'),
    (b"\x7fELF\x02\x01\x01\x00\xff\xfe", "profile_unreadable", "not UTF-8 text"),
    (b"extends: aio\x00\n", "profile_unreadable", "NUL"),
    (b"extends: aio\x07\n", "profile_yaml", "not allowed"),
    ("extends: aio\n".encode("utf-16"), "profile_unreadable", "not UTF-8 text"),
    (b"# " + b"x" * 1024 * 1024, "profile_unreadable", "larger than 1 MiB"),
    ("extends: aio\nstack: [ipv4\n", "profile_yaml", "line 3"),
    ("extends: aio\nnodes:\n\tmaster-0: {}\n", "profile_yaml", "line 3"),
    ("extends: aio\n stack: ipv4\n", "profile_yaml", "line 2"),
    ("extends: aio\n---\nextends: sno\n", "profile_yaml", "line 2"),
    ("extends: !!python/object/apply:os.system [id]\n", "profile_yaml", "line 1"),
    ("extends: !vault x\n", "profile_yaml", "!vault"),
    ("extends: " + "[" * 3000, "profile_yaml", "nested"),
    ("extends: aio\nstack: ipv4\nstack: dualstack\n", "profile_yaml", "line 3, column 1: duplicate key 'stack'"),
    (LAUGHS, "profile_invalid", "expand"),
    ("1: x\n", "profile_invalid", "1: the key must be text"),
    ('extends: "aio\\n"\n', "profile_invalid", "extends: control characters"),
    ("extends: aio\nstacks: ipv4\n", "profile_invalid", "line 2: stacks: unknown key (meant stack?); allowed: "),
    (
        "extends: aio\nnodes:\n  master-0:\n    lable: {}\n",
        "profile_invalid",
        "line 4: nodes.master-0.lable: unknown key",
    ),
    ("stack: ipv4\n", "profile_invalid", "topology is missing (or extends, or nodes); allowed: 4control, "),
    ("stack: ipv4\nnodes: {}\n", "profile_invalid", "topology is missing"),
    ("nodes: {worker-0: {}}\n", "profile_invalid", "clusters.main: has no control plane node (master-N)"),
    ("nodes: {master-0: null}\n", "profile_invalid", "nodes: no node remains"),
    ("nodes: {master-1: {}}\n", "profile_invalid", "topology custom has no nodes; the next master to add is master-0"),
    (
        "extends: ha\nnodes: {worker-3: {}}\n",
        "profile_invalid",
        "has master-0, master-1, master-2, worker-0, worker-1; the next worker to add is worker-2",
    ),
    (
        "extends: ha\nnodes: {master-0: null, master-1: null, master-2: null}\n",
        "profile_invalid",
        "clusters.main: has no control plane node",
    ),
    (
        "extends: ha\nnodes: {master-1: {cluster: two}}\nclusters: {one: {}}\n",
        "profile_invalid",
        'nodes.master-1.cluster: "two" is not under clusters; allowed: main, one, null',
    ),
    ("extends: ha-ipv6-static\nnetwork: {services: {ipv6: 'fd01::/112'}}\n", "subnet_overlap", "network.services.ipv6"),
    ("extends: master-2pipe\nnodes: {worker-0: {schedulable: false}}\n", "profile_invalid", "give a worker a taint"),
    (
        "extends: aio\nnetwork: {pods: {ipv4: 10.96.0.0/12}}\n",
        "subnet_overlap",
        "network.services.ipv4 10.96.0.0/16 overlaps network.pods.ipv4 10.96.0.0/12",
    ),
    ("extends: master-2pipe\nnetwork: {pods: {ipv4: 10.99.0.0/24}}\n", "nodes_too_many", "pod pool 10.99.0.0/24"),
    ("extends: aoi\n", "profile_unknown", "the nearest name is aio"),
    ("extends: ./none.yml\n", "profile_missing", "extends in"),
    ("extends: aio\napps: {}\n", "not_built", "line 2: apps: not built yet"),
    ("extends: aio\nabc: 1\napps: {}\n", "not_built", "apps: not built yet"),
]
# Added to a file that extends aio.
BAD_KEYS = [
    ("nodes: &a {master-0: *a}", "anchor"),
    ("on: x", "the key must be text"),
    ('nodes: {"master-0\\n": {}}', "control characters"),
    ("nodes: {worker0: {}}", "allowed: master-N, arbiter-N or worker-N"),
    ("nodes: {master-0: null}", "nodes: no node remains"),
    ("clusters: {second: {}}", "clusters.second: no node belongs to it"),
    ("clusters: {Second: {}}", "clusters.Second: the key must be a name of at most 32"),
    ("clusters: {main: {size: 1}}", "clusters.main.size: unknown key; allowed: endpoint"),
    ("clusters: {main: null}", 'nodes.master-0.cluster: "main" is not under clusters; allowed: null'),
    ("clusters: {main: {endpoint: {kind: vip}}}", 'kind: "vip" is not known; allowed: auto, node, virtual, external'),
    ("clusters: {main: {endpoint: {kind: external}}}", "clusters.main.endpoint.addresses: kind external needs"),
    ("clusters: {main: {endpoint: {addresses: [192.0.2.1]}}}", "addresses: only kind external has addresses, not auto"),
    ("clusters: {main: {endpoint: {kind: external, addresses: [lb]}}}", "addresses[0]: must be an IP address"),
    ("clusters: {main: {endpoint: {kind: external, addresses: ['fd00::1']}}}", "is ipv6, and the stack is ipv4"),
    ("clusters: {main: {endpoint: {kind: external, addresses: [127.0.0.1]}}}", "must be an ordinary unicast address"),
    (
        "clusters: {main: {endpoint: {kind: external, addresses: [192.0.2.1, 192.0.2.2]}}}",
        "addresses[1]: a second ipv4 address; only one per family is allowed",
    ),
    (
        "clusters: {" + ", ".join(f"c{n}: {{}}" for n in range(6)) + "}",
        "clusters: at most 5 are possible, the profile has 7",
    ),
    ("storage: true", "storage: must be a mapping, is true"),
    ("storage: {enabled: 'yes'}", 'storage.enabled: must be true or false, is "yes"'),
    ("storage: {class: A}", "storage.class: must be a name"),
    ("metrics: {enable: true}", "metrics.enable: unknown key (meant enabled?)"),
    ("validate: {checks: [{name: x}]}", "validate.checks[0]: "),
    ("validate: {checks: [{name: x, command: []}]}", "validate.checks[0].command: must not be empty"),
    ("validate: {checks: [{name: x, command: 'true'}]}", "validate.checks[0].command: must be a list"),
    ("validate: {checks: [{name: x, command: ['true'], timeout: 0}]}", "timeout: must be at least 1"),
    (
        "validate: {checks: [{name: x, command: ['true']}, {name: x, command: ['false']}]}",
        "validate.checks[1].name: duplicate name x",
    ),
    ("network: {node_prefix: 28}", "network.node_prefix: must be at most 27"),
    ("network: {node_prefix: 16, node_pools: {ipv4: 10.213.0.0/17}}", "/1 to /16, is /17"),
    ("provider: vagrant", 'provider: "vagrant" is not known'),
    ("nodes: []", "nodes: must be a mapping, is a list"),
    ("nodes:", "nodes: must be a mapping, is null"),
    (
        "nodes: {master-0: {labels: {pipe: true}}}",
        "nodes.master-0.labels.pipe: must be a string or null, in quotes, is true",
    ),
    ("nodes: {master-0: {labels: {a/b/c: x}}}", "labels.a/b/c: the key must be a Kubernetes label key"),
    ("nodes: {master-0: {labels: {a: '{{ x }}'}}}", "must be a Kubernetes label value"),
    ("nodes: {master-0: {taints: [a=b]}}", "taints[0]: must be key=value:Effect"),
    ("nodes: {master-0: {taints: ['a=b:NoExecute', 'a=c:NoExecute']}}", "duplicate key and effect a:NoExecute"),
    ("nodes: {master-0: {memory: 4GB}}", "must be bytes, or a number with KiB, MiB, GiB or TiB"),
    ("nodes: {master-0: {memory: 1MiB}}", "nodes.master-0.memory: must be at least 1024MiB"),
    ("nodes: {master-0: {memory: 0}}", "must be at least 1"),
    ("nodes: {master-0: {memory: 1.5}}", "whole number or a string"),
    ("nodes: {master-0: {cpus: true}}", "must be a whole number, is true"),
    ("stack: ipv5", 'stack: "ipv5" is not known (meant ipv'),
    ("topology: hqha", 'topology: "hqha" is not known (meant hq-ha?); allowed: 4control, 5control, aio'),
    ("kubernetes: {version: 1.36}", "kubernetes.version: must be a string, in quotes, is 1.36"),
    ("kubernetes: {version: 1.2.3}", 'kubernetes.version: "1.2.3" is not known; allowed: 1.'),
    ("nodes: {worker-1: {}}", "nodes.worker-1: topology aio has master-0; the next worker to add is worker-0"),
    ("network: {pods: {ipv4: 10.300.0.0/16}}", "network.pods.ipv4: must be an IPv4 network in CIDR form"),
    ("network: {pods: {ipv4: 10.99.0.1/16}}", "host bits"),
    ("network: {pods: {ipv4: 'fd01::/56'}}", "must be an IPv4 network"),
    ("network: {pods: {ipv4: 10.99.0.0}}", "in CIDR form"),
    ("network: {pods: {ipv4: 239.0.0.0/16}}", "unicast"),
    ("network: {pods: {ipv4: 10.99.0.0/25}}", "/1 to /24, is /25"),
    ("network: {services: {ipv6: 'fd02::/64'}}", "/108 to /124"),
    ("registry: {mirrors: {docker.io: [mirror]}}", "registry.mirrors.docker.io[0]: must be an http://"),
    ("registry: {mirrors: {'http://x': ['http://m']}}", "must be a registry host"),
    ("registry: {mirrors: {docker.io: []}}", "must not be empty"),
]
NOT_BUILT = [
    ("components: []", "components: not built yet"),
    ("provider: baremetal", '"baremetal" is not built yet; allowed: podman'),
    ("kubernetes: {engine: openshift_agent}", '"openshift_agent" is not built yet; allowed: kubeadm'),
]


def check_refusal(folder: Path, content: str | bytes, reason: str, message: str) -> None:
    path = write(folder, "bad.yml", content)
    error = refused(path)
    assert error.reason.id == reason
    assert error.exit_code == 2
    assert message in str(error)
    assert str(path) in str(error), "the file is named"
    assert error.advice


@pytest.mark.parametrize(("content", "reason", "message"), BAD_FILES, ids=lambda value: str(value)[:40])
def test_invalid_files_are_rejected(tmp_path: Path, content: str | bytes, reason: str, message: str) -> None:
    check_refusal(tmp_path, content, reason, message)


@pytest.mark.parametrize(("content", "message"), BAD_KEYS)
def test_invalid_keys_and_values_are_rejected(tmp_path: Path, content: str, message: str) -> None:
    check_refusal(tmp_path, f"extends: aio\n{content}\n", "profile_invalid", message)


@pytest.mark.parametrize(("content", "message"), NOT_BUILT)
def test_planned_keys_and_values_are_rejected(tmp_path: Path, content: str, message: str) -> None:
    check_refusal(tmp_path, f"extends: aio\n{content}\n", "not_built", message)


def test_a_password_in_an_address_is_rejected_and_not_shown(tmp_path: Path) -> None:
    for text in (
        "proxy: {http: 'http://me:hunter2@proxy:3128'}",
        "registry: {mirrors: {a.b: ['http://me:hunter2@m']}}",
    ):
        error = refused(write(tmp_path, "x.yml", f"extends: aio\n{text}\n"))
        assert error.reason.id == "profile_invalid"
        assert "hunter2" not in str(error)


def test_missing_files_directories_and_pipes_are_rejected(tmp_path: Path) -> None:
    assert refused("none.yml", cwd=tmp_path).reason.id == "profile_missing"
    assert refused("./", cwd=tmp_path).reason.id == "profile_unreadable"
    os.mkfifo(tmp_path / "pipe.yml")
    assert refused("pipe.yml", cwd=tmp_path).reason.id == "profile_unreadable"
    (tmp_path / "gone.yml").symlink_to("nowhere")
    assert refused("gone.yml", cwd=tmp_path).reason.id == "profile_missing"
    assert refused(f"{'n' * 300}.yml", cwd=tmp_path).reason.id == "profile_unreadable"


def test_an_unreadable_file_is_rejected(tmp_path: Path) -> None:
    # Its first page is never mapped: even root gets an error.
    (tmp_path / "x.yml").symlink_to("/proc/self/mem")
    error = refused(str(tmp_path / "x.yml"))
    assert error.reason.id == "profile_unreadable"
    assert "cannot be read" in str(error)


def test_loops_of_extends_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, "self.yml", "extends: ./self.yml\n")
    write(tmp_path, "a.yml", "extends: ./b.yml\n")
    write(tmp_path, "b.yml", "extends: ./sub/../a.yml\n")
    (tmp_path / "sub").mkdir()
    assert "self.yml -> self.yml" in str(refused("./self.yml", cwd=tmp_path))
    error = refused("./a.yml", cwd=tmp_path)
    assert error.reason.id == "profile_loop"
    assert "a.yml -> b.yml -> a.yml" in str(error)


def test_a_parent_in_two_branches_is_not_a_loop(tmp_path: Path) -> None:
    write(tmp_path, "aio.yml", "extends: aio\n")
    assert resolve("./aio.yml", cwd=tmp_path)["profile"] == "aio-ipv4-static"


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_content_gives_a_profile_or_a_reason(content: bytes) -> None:
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    path = folder / f"devenv-profile-{os.getpid()}.yml"
    path.write_bytes(content)
    try:
        assert exit_code(str(path)) in (0, 2)
    finally:
        path.unlink()


def test_missing_jsonschema_is_reported(tmp_path: Path) -> None:
    """Only a user's profile needs the validation; the supplied profiles are valid."""
    (tmp_path / "own.yml").write_text("extends: aio\n")
    program = (
        "import sys; sys.modules['jsonschema'] = None\n"
        "from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError\n"
        "from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve\n"
        "resolve('aio')\n"
        "try:\n    resolve(sys.argv[1])\n"
        "except DevenvError as error:\n    print(error.reason.id, error.exit_code, error.advice)\n"
    )
    root = Path(paths.__file__).parents[6]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "own.yml")],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("jsonschema_missing 9 pip install jsonschema")


# --- overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "path", "expected"),
    [
        ({"nodes.master-0.memory": "4GiB"}, "nodes.0.memory", 4 * 1024**3),
        ({"nodes.master-0.memory": 4294967296}, "nodes.0.memory", 4 * 1024**3),
        ({"nodes.master-0.cpus": "3"}, "nodes.0.cpus", 3),
        ({"nodes": {"master-0": {"cpus": 3}}}, "nodes.0.cpus", 3),
        ({"nodes.master-0": {"cpus": 3}, "nodes.master-0.memory": "3GiB"}, "nodes.0.cpus", 3),
        ({"nodes.master-0.schedulable": "false"}, "nodes.0.schedulable", False),
        ({"nodes.master-0.labels.example.com/role": "db"}, "nodes.0.labels.example.com/role", "db"),
        ({"nodes.master-0.labels.pipe": "false"}, "nodes.0.labels.pipe", "false"),
        ({"nodes.master-0.taints": '["a=b:NoSchedule"]'}, "nodes.0.taints", ["a=b:NoSchedule"]),
        ({"registry.mirrors.docker.io": '["http://m:5000"]'}, "registry.mirrors", {"docker.io": ["http://m:5000"]}),
        ({"stack": "dualstack"}, "profile", "aio-dualstack-static"),
        ({"topology": "sno"}, "profile", "sno-ipv4-static"),
        ({"kubernetes.version": DEFAULT_VERSION}, "kubernetes.version", DEFAULT_VERSION),
        ({"proxy.http": "http://proxy:3128"}, "proxy", {"http": "http://proxy:3128", "https": "", "no_proxy": []}),
        ({"proxy.no_proxy": "[a.b, 10.0.0.0/8]"}, "proxy.no_proxy", ["a.b", "10.0.0.0/8"]),
        ({"nodes.worker-0": "{}"}, "nodes.1.name", "worker-0"),
        ({"clusters.main.endpoint.kind": "virtual"}, "clusters.main.endpoint.kind", "virtual"),
        (
            {"clusters.main.endpoint": '{"kind": "external", "addresses": ["192.0.2.1"]}'},
            "clusters.main.endpoint",
            {"kind": "external", "addresses": ["192.0.2.1"]},
        ),
        ({"storage.enabled": "true"}, "storage.enabled", True),
        ({"validate.checks": '[{"name": "x", "command": ["true"]}]'}, "validate.checks.0.timeout", 60),
        ({"network.node_prefix": "22"}, "network.node_prefix", 22),
    ],
)  # fmt: skip
def test_overrides_change_the_resolved_profile(overrides: dict[str, Any], path: str, expected: Any) -> None:
    value: Any = resolve("aio", overrides=overrides)
    head, _, tail = path.partition(".labels.")
    for part in head.split("."):
        value = value[int(part)] if part.isdigit() else value[part]
    assert (value["labels"][tail] if tail else value) == expected


@pytest.mark.parametrize(
    ("overrides", "reason", "message"),
    [
        ({"nods.master-0.cpus": 1}, "profile_invalid", "--set: nods: unknown key (meant nodes?); allowed: apiVersion"),
        ({"nodes.master-0.cpu": 1}, "profile_invalid", "nodes.master-0.cpu: unknown key (meant cpus?); allowed: "),
        ({"nodes.master-0.cpus": "many"}, "profile_invalid", 'cpus: must be a whole number, is "many"'),
        ({"nodes.master-0.cpus": "[1"}, "profile_invalid", "must be a whole number"),
        ({"nodes.master-0.cpus.x": 1}, "profile_invalid", "nodes.master-0.cpus: must be a whole number, is a mapping"),
        ({"stack": "v4"}, "profile_invalid", "allowed: ipv4, ipv6, dualstack"),
        ({"clusters.main.endpoint.kind": "v"}, "profile_invalid", "clusters.main.endpoint.kind: "),
        ({"clusters.x.y": "v"}, "profile_invalid", "clusters.x.y: unknown key; allowed: endpoint"),
        ({"apps.x": "y"}, "not_built", "apps: not built yet"),
        ({"extends": "sno"}, "profile_invalid", "extends: cannot be overridden"),
        ({"": 1}, "profile_invalid", "not a valid path of a key"),
        ({"a..b": 1}, "profile_invalid", "not a valid path of a key"),
        ({".": 1}, "profile_invalid", "not a valid path of a key"),
        ({1: 1}, "profile_invalid", "the key must be text"),
        ({"nodes.master-0.memory": "1GiB\n"}, "profile_invalid", "control characters"),
        ({"network.pods.ipv4": "10.213.0.0/16"}, "subnet_overlap", "network.pods.ipv4"),
        ({"nodes.worker-3.cpus": 2}, "profile_invalid", "the next worker to add is worker-0"),
    ],
)  # fmt: skip
def test_invalid_overrides_are_rejected(overrides: dict[Any, Any], reason: str, message: str) -> None:
    error = refused("aio", overrides=overrides)
    assert (error.reason.id, error.exit_code) == (reason, 2)
    assert message in str(error)


@given(st.dictionaries(st.text(max_size=30), st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20))))
def test_any_overrides_give_a_profile_or_a_reason(overrides: dict[str, Any]) -> None:
    before = copy.deepcopy(overrides)
    assert exit_code("aio", overrides=overrides) in (0, 2)
    assert overrides == before


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("4GiB", 4 << 30),
        ("1.5GiB", 3 << 29),
        ("0.001KiB", 1),
        ("512MiB", 512 << 20),
        ("1TiB", 1 << 40),
        ("1024", 1024),
        (1024, 1024),
        ("007KiB", 7168),
    ],
)
def test_sizes_become_bytes(quantity: str | int, expected: int) -> None:
    assert parse_quantity(quantity) == expected


@pytest.mark.parametrize(
    "quantity", ["", "GiB", "4 GiB", "4GB", "4gib", "-1", "-1GiB", "1.5", "1e3", "4GiB\n", "٤GiB", True, 1.5]
)
def test_invalid_sizes_are_rejected(quantity: Any) -> None:
    with pytest.raises(DevenvError) as caught:
        parse_quantity(quantity)
    assert caught.value.reason.id == "profile_invalid"


@given(st.integers(0, 10**15 - 1), st.sampled_from(["", "KiB", "MiB", "GiB", "TiB"]))
def test_whole_numbers_with_units_are_exact(number: int, unit: str) -> None:
    exponent = ["", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert parse_quantity(f"{number}{unit}") == number * 1024**exponent


# --- changes ---------------------------------------------------------------------------------------------------------


def difference(old: str, overrides: dict[str, Any]) -> list[tuple[str, Any, Any, bool]]:
    differences = changes.between(resolve(old), resolve(old, overrides=overrides))
    assert all(change.why for change in differences)
    return [(change.path, change.old, change.new, change.applies) for change in differences]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, []),
        ({"nodes.worker-0.labels.new": "1"}, [("nodes.worker-0.labels.new", None, "1", True)]),
        ({"nodes.worker-0.labels": {"pipe": None}}, [("nodes.worker-0.labels.pipe", "true", None, True)]),
        ({"nodes.worker-0.taints": ["a:NoExecute"]}, [("nodes.worker-0.taints", [], ["a:NoExecute"], True)]),
        ({"nodes.worker-0.cpus": 3}, [("nodes.worker-0.cpus", 2, 3, False)]),
        ({"nodes.worker-0.memory": "3GiB"}, [("nodes.worker-0.memory", 2 << 30, 3 << 30, False)]),
        ({"nodes.master-0.schedulable": True}, [("nodes.master-0.schedulable", False, True, True)]),
        ({"metrics.enabled": True}, [("metrics.enabled", False, True, True)]),
        ({"storage.class": "fast"}, [("storage.class", "local-path", "fast", False)]),
        (
            {"clusters.main.endpoint.kind": "virtual"},
            [
                (
                    "clusters.main.endpoint",
                    {"kind": "node", "addresses": []},
                    {"kind": "virtual", "addresses": []},
                    True,
                )
            ],
        ),
        (
            {"clusters.main.endpoint": {"kind": "external", "addresses": ["192.0.2.1"]}},
            [
                (
                    "clusters.main.endpoint",
                    {"kind": "node", "addresses": []},
                    {"kind": "external", "addresses": ["192.0.2.1"]},
                    False,
                )
            ],
        ),
        ({"stack": "dualstack"}, [("stack", "ipv4", "dualstack", False)]),
        ({"proxy.http": "http://p:1"}, [("proxy.http", "", "http://p:1", False)]),
        (
            {"registry.mirrors.docker.io": ["http://m"]},
            [("registry.mirrors.docker.io", None, ["http://m"], False)],
        ),
        ({"network.pods.ipv4": "10.99.0.0/16"}, [("network.pods.ipv4", "10.244.0.0/16", "10.99.0.0/16", False)]),
    ],
)
def test_changes_of_settings_apply_or_not(
    overrides: dict[str, Any], expected: list[tuple[str, Any, Any, bool]]
) -> None:
    assert difference("master-2pipe", overrides) == expected


def test_adding_and_removing_nodes_applies_but_moving_them_does_not() -> None:
    pipes, ha = resolve("master-2pipe"), resolve("ha")
    added = {change.path: change.applies for change in changes.between(resolve("sno"), ha)}
    assert added == {
        "clusters.main.endpoint": True,
        "nodes.master-0.schedulable": True,
        "nodes.master-1": True,
        "nodes.master-2": True,
        "nodes.worker-0": True,
        "nodes.worker-1": True,
    }
    remaining = resolve("master-2pipe", overrides={"nodes.worker-0": None})
    (change,) = changes.between(pipes, remaining)
    assert (change.path, change.new, change.applies) == ("nodes.worker-0", None, True)
    assert {change.path: change.applies for change in changes.between(remaining, pipes)} == {"nodes.worker-0": True}
    bare = resolve("master-2pipe", overrides={"nodes.worker-0.cluster": None})
    assert [(change.path, change.applies) for change in changes.between(pipes, bare)] == [
        ("nodes.worker-0.cluster", False)
    ]


def test_an_engine_without_the_taint_of_the_role_does_not_change_schedulable_in_place() -> None:
    old = resolve("ha")
    old["kubernetes"]["engine"] = "gravity"
    new = copy.deepcopy(old)
    new["nodes"][0]["schedulable"] = True
    assert [(change.path, change.applies) for change in changes.between(old, new)] == [
        ("nodes.master-0.schedulable", False)
    ]


def test_adding_a_cluster_applies_but_removing_it_does_not() -> None:
    single = resolve("sno")
    double = resolve("sno", overrides={"clusters.blue": {}, "nodes.master-1": {"cluster": "blue"}})
    assert {change.path: change.applies for change in changes.between(single, double)} == {
        "clusters.blue": True,
        "nodes.master-1": True,
    }
    assert {change.path: change.applies for change in changes.between(double, single)} == {
        "clusters.blue": False,
        "nodes.master-1": True,
    }


def test_a_change_of_checks_applies() -> None:
    differences = difference("sno", {"validate.checks": [{"name": "x", "command": ["true"]}]})
    assert [(path, applies) for path, _old, _new, applies in differences] == [("validate.checks", True)]


def test_the_order_of_nodes_and_the_names_do_not_count() -> None:
    old = resolve("master-2pipe")
    new = resolve("master-2pipe-ipv4-static")
    new["nodes"].reverse()
    assert old["name"] != new["name"]
    assert changes.between(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1.35.4", "1.36.3", "devenv upgrade --kubernetes 1.36.3"),
        ("1.36.3", "1.36.4", "devenv upgrade --kubernetes 1.36.4"),
        ("1.36.9", "1.36.10", "devenv upgrade --kubernetes 1.36.10"),
        ("1.36.3", "1.36.2", "a downgrade"),
        ("1.36.0", "1.35.9", "a downgrade"),
        ("1.34.1", "1.36.3", "skips a minor version: run devenv upgrade to 1.35 first"),
        ("1.36.3", "2.0.0", "skips a minor version"),
    ],
)
def test_a_change_of_the_version_does_not_apply_and_states_why(old: str, new: str, message: str) -> None:
    before = resolve("aio")
    before["kubernetes"]["version"] = old
    after = copy.deepcopy(before)
    after["kubernetes"]["version"] = new
    (change,) = changes.between(before, after)
    assert (change.path, change.applies) == ("kubernetes.version", False)
    assert message in change.why


@given(st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_changes_name_what_differs_and_nothing_else(first: str, second: str) -> None:
    old, new = resolve(first), resolve(second)
    differences = changes.between(old, new)
    assert not differences if first == second else {change.path for change in differences}
    back = {change.path for change in changes.between(new, old)}
    assert {change.path for change in differences} == back


# --- nodes that the profile removes, clusters, warnings --------------------------------------------------------------


def node_names(name: str, **overrides: Any) -> list[str]:
    return [node["name"] for node in resolve(name, overrides=overrides)["nodes"]]


def test_null_removes_a_node_and_leaves_its_number_free(tmp_path: Path) -> None:
    assert node_names("ha", **{"nodes.worker-0": None}) == ["master-0", "master-1", "master-2", "worker-1"]
    assert node_names("ha", **{"nodes.worker-0": "null", "nodes.worker-2": {}})[3:] == ["worker-1", "worker-2"]
    base = write(tmp_path, "base.yml", "extends: ha\nnodes: {worker-0: null}\n")
    again = write(tmp_path, "again.yml", "extends: ./base.yml\nnodes: {worker-0: {cpus: 3}}\n")
    assert "worker-0" not in node_names(base)
    assert node(resolve(again), "worker-0")["cpus"] == 3


def test_a_profile_can_list_all_its_nodes(tmp_path: Path) -> None:
    mine = write(tmp_path, "mine.yml", "stack: dualstack\nnodes: {master-0: {schedulable: true}, worker-0: {}}\n")
    resolved = resolve(mine)
    assert (resolved["profile"], resolved["topology"]) == ("custom-dualstack-static", "custom")
    assert [node["name"] for node in resolved["nodes"]] == ["master-0", "worker-0"]


def test_the_cluster_main_exists_only_if_it_is_used(tmp_path: Path) -> None:
    text = "clusters: {a: {}}\nnodes: {master-0: {cluster: a}, worker-0: {cluster: null}}\n"
    resolved = resolve(write(tmp_path, "a.yml", text))
    assert list(resolved["clusters"]) == ["a"]
    bare = resolve("sno", overrides={"nodes.master-0.cluster": None})
    assert (bare["clusters"], bare["nodes"][0]["cluster"]) == ({}, None)
    error = refused("sno", overrides={"clusters.main": {}, "nodes.master-0.cluster": None})
    assert "clusters.main: no node belongs to it" in str(error)
    write(tmp_path, "b.yml", "extends: ./a.yml\nclusters: {a: null}\nnodes: {master-0: {cluster: main}}\n")
    assert list(resolve("./b.yml", cwd=tmp_path)["clusters"]) == ["main"]


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("ha", {}, []),
        ("4control", {}, ["cluster main: 4 etcd members"]),
        ("ha", {"nodes.master-2": None}, ["cluster main: 2 etcd members"]),
        ("tna", {}, []),
        ("tna", {"nodes.arbiter-0": None}, ["cluster main: 2 etcd members"]),
        ("sno", {"nodes.master-0.schedulable": False}, ["cluster main: no node accepts ordinary pods"]),
        (
            "sno",
            {"clusters.b": {}, "nodes": {"master-1": {"cluster": "b"}, "master-2": {"cluster": "b"}}},
            ["cluster b: 2 etcd members", "cluster b: no node accepts ordinary pods"],
        ),
    ],
)
def test_probable_mistakes_give_a_warning(name: str, overrides: dict[str, Any], message: list[str]) -> None:
    warnings = rules.warnings(resolve(name, overrides=overrides))
    assert [any(text in warning for text in message) for warning in warnings] == [True] * len(message)


def test_an_external_endpoint_outside_the_cluster_is_required() -> None:
    overrides = {"clusters.main.endpoint": {"kind": "external", "addresses": ["10.96.0.7"]}}
    error = refused("ha", overrides=overrides)
    assert (error.reason.id, "is within network.services.ipv4" in str(error)) == ("subnet_overlap", True)


def test_more_nodes_than_the_pools_allow_are_rejected() -> None:
    many: dict[str, Any] = {f"nodes.worker-{number}": {} for number in range(245)}
    assert refused("sno", overrides=many).reason.id == "nodes_too_many"
    wide = many | {"network.node_prefix": 23}
    assert len(resolve("sno", overrides=wide)["nodes"]) == 246
    six = {f"nodes.worker-{number}": {} for number in range(256)}
    assert "pod pool fd01::/56" in str(refused("sno-ipv6-static", overrides=six))
    six["network.pods.ipv6"] = "fd01::/48"
    assert len(resolve("sno-ipv6-static", overrides=six)["nodes"]) == 257


# --- data of engines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((paths.CONFIGS / "engines").glob("*.yml")), ids=lambda path: path.stem)
def test_usage_and_minimum_of_engines_fit_the_default_sizes(path: Path) -> None:
    assert path.stem in SCHEMA["properties"]["kubernetes"]["properties"]["engine"]["enum"]
    for sizes in engines.traits(path.stem)["groups"].values():
        assert set(sizes) - {"most"} == {"default", "least", "in_use", "ports"}
        for key in ("memory", "disk"):
            used, least, default = (parse_quantity(sizes[size][key]) for size in ("in_use", "least", "default"))
            assert used <= default
            assert least <= default


# --- additions are data only -----------------------------------------------------------------------------------------


def test_a_new_topology_is_a_file_and_a_word_of_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(paths.CONFIGS, configs)
    (configs / "topologies" / "two.yml").write_text("description: Two.\nnodes: {master-0: {}, worker-0: {}}\n")
    (configs / "profiles" / "double.yml").write_text("extends: two-ipv6-static\n")
    schema = copy.deepcopy(SCHEMA)
    schema["properties"]["topology"]["enum"].append("two")
    (configs / "schema" / "profile.json").write_text(json.dumps(schema))
    monkeypatch.setattr(paths, "CONFIGS", configs)
    assert "two-ipv6-static" in profile_names.canonical()
    assert catalogue.aliases()["double"] == "two-ipv6-static"
    assert resolve("double")["families"] == ["ipv6"]
