"""The types of profiles, networks and inventories match the schema and what functions return."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, network_plan, nodes
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import (
    HostVariables,
    Inventory,
    NetworkPlan,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import EngineTraits, Kubernetes, Node, Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.existing import provider as existing
from hypothesis import given
from hypothesis import strategies as st
from support import conform

SCHEMA: dict[str, Any] = json.loads((paths.CONFIGS / "schema" / "profile.json").read_text())
SUBNETS = {"ipv4": "10.213.4.0/24", "ipv6": "fd77:6465:7600:4::/64"}
PLAIN = {"string": str, "integer": int, "boolean": bool}
# Keys that resolve adds, and keys of a document that a resolved profile no longer has.
ADDED = {"": {"profile", "name", "families"}, ".nodes[]": {"name", "group"}}
DROPPED = {"": {"apiVersion", "description", "extends"}}
HOST = {"addresses": ["192.0.2.7"]}
GRAVITY = {"kubernetes.engine": "gravity", "kubernetes.gravity": {"tarball": "/a.tar", "sha256": "0" * 64}}
VARIATIONS: list[tuple[str, dict[str, Any]]] = [
    ("sno", {"provider": "existing", "nodes.master-0.host": HOST}),
    ("sno", {**GRAVITY, "nodes.master-0.node_type": "control", "nodes.master-0.image": "localhost/prepared:1"}),
    ("ha", {"registry.mirrors.docker.io": ["http://mirror:5000"], "proxy.http": "http://proxy:3128"}),
    ("ha", {"validate.checks": [{"name": "a", "command": ["true"]}], "storage.enabled": True}),
    ("ha", {"nodes.worker-0.cluster": None, "nodes.worker-1.taints": ["a=b:NoSchedule"]}),
    ("ha", {"nodes.worker-0.base_image": "tools"}),
    ("ha", {"clusters.b": {}, "nodes.master-3": {"cluster": "b"}}),
    ("ha", {"clusters.main.endpoint": {"kind": "external", "addresses": ["192.0.2.1"]}}),
]


# --- the schema ------------------------------------------------------------------------------------------------------


def inlined(rule: Any, definitions: dict[str, Any]) -> Any:
    """Return ``rule`` with each $ref replaced by its definition."""
    if isinstance(rule, list):
        return [inlined(item, definitions) for item in rule]
    if not isinstance(rule, dict):
        return rule
    named = definitions[rule["$ref"].rpartition("/")[2]] if "$ref" in rule else {}
    return {key: inlined(item, definitions) for key, item in {**named, **rule}.items() if key not in ("$ref", "$defs")}


def drift(rule: dict[str, Any], kind: Any, path: str = "") -> Iterator[str]:
    """Yield how the type ``kind`` differs from a rule of the schema that has no $ref."""
    if rule.get("pattern") == SCHEMA["$defs"]["quantity"]["pattern"]:
        if kind is not int:
            yield f"{path}: a quantity becomes a number of bytes, is {kind}"
        return
    allowed = [rule["type"]] if isinstance(rule["type"], str) else list(rule["type"])
    if isinstance(kind, types.UnionType):
        if typing.get_args(kind)[1:] != (type(None),) or "null" not in allowed:
            yield f"{path}: {kind} and {allowed}"
        kind = typing.get_args(kind)[0]
    (name,) = [word for word in allowed if word != "null"]
    if name in PLAIN:
        if kind is not PLAIN[name]:
            yield f"{path}: {kind} and {name}"
    elif name == "array":
        if typing.get_origin(kind) is not list:
            yield f"{path}: {kind} and {name}"
            return
        yield from drift(rule["items"], typing.get_args(kind)[0], f"{path}[]")
    elif typing.is_typeddict(kind):
        yield from drift_of_keys(rule, kind, path)
    elif typing.get_origin(kind) in (dict, list):
        yield from drift_of_items(rule, kind, path)
    else:
        yield f"{path}: {kind} and {name}"


def drift_of_keys(rule: dict[str, Any], kind: Any, path: str) -> Iterator[str]:
    known = conform.fields(kind)
    built = {key: item for key, item in rule.get("properties", {}).items() if item.get("x-not-built") is not True}
    expected = (set(built) - DROPPED.get(path, set())) | ADDED.get(path, set())
    yield from (f"{path}.{key}: is in one of the two only" for key in sorted(expected ^ set(known)))
    for key in sorted(set(built) & set(known)):
        yield from drift(built[key], known[key], f"{path}.{key}")


def drift_of_items(rule: dict[str, Any], kind: Any, path: str) -> Iterator[str]:
    # Names become items: nodes are a list.
    patterns = list(rule.get("patternProperties", {}).values())
    below = rule.get("additionalProperties")
    inner = typing.get_args(kind)[-1]
    if isinstance(below, dict):
        yield from drift(below, inner, f"{path}.*")
    elif patterns:
        yield from drift(patterns[0], inner, f"{path}[]")
    else:
        for key, item in rule["properties"].items():
            yield from drift(item, inner, f"{path}.{key}")


def test_the_profile_has_the_keys_and_types_of_the_schema() -> None:
    assert list(drift(inlined(SCHEMA, SCHEMA["$defs"]), Profile)) == []


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        (("properties", "later"), {"type": "string"}),
        (("properties", "topology", "type"), "integer"),
        (("$defs", "node", "properties", "weight"), {"type": "integer"}),
        (("$defs", "node", "properties", "taints", "items", "type"), "integer"),
        (("properties", "clusters", "additionalProperties", "properties", "colour"), {"type": "string"}),
        (("properties", "kubernetes", "properties", "gravity", "properties", "prepared", "type"), "string"),
    ],
)
def test_a_change_of_the_schema_alone_is_detected(path: tuple[str, ...], rule: Any) -> None:
    changed = json.loads(json.dumps(SCHEMA))
    part = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = rule
    assert len(list(drift(inlined(changed, changed["$defs"]), Profile))) == 1


# --- what functions return -------------------------------------------------------------------------------------------


def check(resolved: Any) -> None:
    """Check that the profile, its network plan and its inventory match their types."""
    assert list(conform.differences(resolved, Profile)) == []
    of_hosts = "host" in resolved["nodes"][0]
    plan: Any = (
        existing.network(resolved, None) if of_hosts else network_plan.make(resolved, SUBNETS) | {"bridge": "b0"}
    )
    assert list(conform.differences(plan, NetworkPlan)) == []
    for network in (None, plan):
        built = inventory.build(resolved, network, "/state/environments/lab")
        assert list(conform.differences(built, Inventory)) == []


@pytest.mark.parametrize("name", profile_names.canonical())
def test_every_canonical_profile_matches_the_types(name: str) -> None:
    check(resolve(name))


@pytest.mark.parametrize(("name", "overrides"), VARIATIONS)
def test_variations_match_the_types(name: str, overrides: dict[str, Any]) -> None:
    check(resolve(name, overrides=overrides))


def test_variations_together_have_every_optional_key() -> None:
    profiles = [resolve(name, overrides=overrides) for name, overrides in VARIATIONS]
    seen = {key for profile in profiles for node in profile["nodes"] for key in node}
    assert seen == set(conform.fields(Node))
    assert {key for profile in profiles for key in profile["kubernetes"]} == set(conform.fields(Kubernetes))


@given(
    st.sampled_from(profile_names.canonical()),
    st.fixed_dictionaries(
        {},
        optional={
            "nodes.worker-9.memory": st.just(1),
            "nodes.master-0.memory": st.sampled_from(["2GiB", 2**31, "1.5GiB"]),
            "nodes.master-0.cpus": st.integers(1, 1024),
            "nodes.master-0.labels": st.dictionaries(st.sampled_from("abc"), st.sampled_from(["x", "", None])),
            "nodes.master-0.taints": st.sampled_from([[], ["a:NoSchedule"], ["a=b:NoExecute", "c:NoSchedule"]]),
            "network.node_prefix": st.integers(16, 27),
            "proxy.no_proxy": st.lists(st.sampled_from(["a", "10.0.0.0/8"])),
            "storage": st.fixed_dictionaries({"enabled": st.booleans(), "class": st.sampled_from(["a", "b"])}),
            "metrics.enabled": st.booleans(),
        },
    ),
)
def test_any_overrides_match_the_types(name: str, overrides: dict[str, Any]) -> None:
    try:
        resolved = resolve(name, overrides=overrides)
    except DevenvError:
        return
    assert list(conform.differences(resolved, Profile)) == []


def test_data_of_another_type_is_detected() -> None:
    resolved: Any = resolve("ha")
    del resolved["stack"]
    resolved["more"] = 1
    resolved["nodes"][0]["cpus"] = "2"
    resolved["nodes"][1]["cluster"] = 3
    resolved["storage"] = []
    assert list(conform.differences(resolved, Profile)) == [
        ".stack: is missing",
        ".more: is in no type",
        ".nodes[0].cpus: is not of type int: '2'",
        ".nodes[1].cluster: is none of str | None: 3",
        ".storage: is not a mapping: []",
    ]


@pytest.mark.parametrize("path", sorted((paths.CONFIGS / "engines").glob("*.yml")), ids=lambda path: path.stem)
def test_files_of_engines_match_the_types(path: Any) -> None:
    assert list(conform.differences(yaml.safe_load(path.read_text()), EngineTraits)) == []


# --- nodes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ha-dualstack6-dhcp", "master-2pipe-ipv6-static"])
def test_a_planned_node_equals_the_one_from_the_inventory(name: str) -> None:
    resolved: Any = resolve(name)
    plan: Any = network_plan.make(resolved, SUBNETS)
    built = inventory.build(resolved, plan, "/state/environments/lab")
    specs = nodes.planned(resolved, plan)
    assert [spec.name for spec in specs] == [node["name"] for node in resolved["nodes"]]
    for spec in specs:
        variables: Any = {**built["vars"], **built["hosts"][spec.name]}
        seen = nodes.from_variables(spec.name, variables)
        assert seen.pod_cidrs == tuple(variables["devenv_pod_cidrs"])
        assert {**vars(seen), "pod_cidrs": ()} == vars(spec)
        assert spec.families == resolved["families"]
    assert specs[0].interfaces[0] == "fd77:6465:7600:4::10/64"


def test_a_host_outside_the_profile_inventory_is_rejected() -> None:
    variables: Any = {"ansible_host": "192.0.2.1"}
    with pytest.raises(DevenvError, match="has no variable devenv_group"):
        nodes.from_variables("a", variables)


def test_a_bare_node_has_all_variables() -> None:
    resolved = resolve("ha", overrides={"nodes.worker-0.cluster": None})
    built = inventory.build(resolved, None, "/state/environments/lab")
    assert list(conform.differences(built["hosts"]["worker-0"], HostVariables)) == []
