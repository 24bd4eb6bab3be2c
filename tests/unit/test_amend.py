"""The profile of a living environment, a few keys changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

MINE = """
extends: ha-dualstack-static
network: {node_prefix: 25, pods: {ipv4: 10.200.0.0/16}}
registry: {mirrors: {docker.io: ["http://mirror:5000"]}}
clusters: {main: {}, second: {}}
nodes:
  master-0: {labels: {team: blue}}
  worker-0: {memory: 3GiB, taints: ["dedicated=db:NoSchedule"], labels: {memsql: "true"}}
  worker-1: null
  worker-2: {cluster: null}
  master-3: {cluster: second}
validate: {checks: [{name: one, command: [kubectl, version]}]}
"""
CUSTOM = "nodes: {master-0: {schedulable: true}, worker-0: {}}\n"


def mine(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "mine.yml"
    path.write_text(text)
    return resolve(str(path))


@pytest.mark.parametrize("name", profile_names.canonical())
def test_every_canonical_profile_resolves_to_itself(name: str) -> None:
    resolved = resolve(name)
    assert amend.amend(resolved, {}) == resolved


@pytest.mark.parametrize("text", [MINE, CUSTOM, "extends: aio\nnodes: {master-0: {labels: {pipe: null}}}\n"])
def test_a_user_profile_resolves_to_itself(text: str, tmp_path: Path) -> None:
    resolved = mine(tmp_path, text)
    assert amend.amend(resolved, {}) == resolved


def nodes(resolved: dict[str, Any]) -> list[str]:
    return [node["name"] for node in resolved["nodes"]]


@pytest.mark.parametrize(
    ("name", "overrides", "names"),
    [
        ("master-2pipe", {"nodes.worker-2": {}}, ["master-0", "worker-0", "worker-1", "worker-2"]),
        ("master-2pipe", {"nodes.worker-0": None}, ["master-0", "worker-1"]),
        ("ha", {"nodes.master-1": None, "nodes.worker-0": None}, ["master-0", "master-2", "worker-1"]),
        ("aio", {"nodes.worker-0": {"memory": "1GiB"}}, ["master-0", "worker-0"]),
    ],
)
def test_nodes_are_added_and_removed(name: str, overrides: dict[str, Any], names: list[str]) -> None:
    old = resolve(name)
    new = amend.amend(old, overrides)
    assert nodes(new) == names
    kept = {node["name"]: node for node in old["nodes"]}
    assert all(node == kept[node["name"]] for node in new["nodes"] if node["name"] in kept)
    assert new["name"] == old["name"]


def test_the_endpoint_follows_the_number_of_masters() -> None:
    single = resolve("aio")
    double = amend.amend(single, {"nodes.master-1": {}})
    assert [r["clusters"]["main"]["endpoint"]["kind"] for r in (single, double)] == ["node", "virtual"]
    assert amend.amend(double, {"nodes.master-1": None}) == single


def test_a_second_change_keeps_the_first(tmp_path: Path) -> None:
    first = amend.amend(mine(tmp_path, MINE), {"nodes.worker-3": {"labels": {"pipe": "true"}}})
    second = amend.amend(first, {"nodes.worker-3.labels.pipe": None, "nodes.worker-0.memory": "4GiB"})
    assert nodes(second) == nodes(first)
    by_name = {node["name"]: node for node in second["nodes"]}
    assert by_name["worker-3"]["labels"] == {}
    assert by_name["worker-0"]["memory"] == 4 << 30


def test_a_node_that_was_added_and_removed_leaves_its_number_free() -> None:
    more = amend.amend(resolve("master-2pipe"), {"nodes.worker-2": {}, "nodes.worker-3": {}})
    less = amend.amend(more, {"nodes.worker-2": None})
    assert nodes(less) == ["master-0", "worker-0", "worker-1", "worker-3"]
    assert nodes(amend.amend(less, {"nodes.worker-2": {}})) == nodes(more)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"nodes.worker-9": {}}, "profile_invalid"),
        ({"nodes.master-0": None}, "profile_invalid"),
        ({"nodes.worker-0.colour": "red"}, "profile_invalid"),
    ],
)
def test_an_invalid_change_is_rejected(overrides: dict[str, Any], reason: str) -> None:
    with pytest.raises(DevenvError) as raised:
        amend.amend(resolve("master-2pipe"), overrides)
    assert raised.value.reason.id == reason


def test_a_profile_of_another_version_is_not_changed_silently() -> None:
    old = {**resolve("aio"), "colour": "red"}
    with pytest.raises(DevenvError, match="colour"):
        amend.amend(old, {})
