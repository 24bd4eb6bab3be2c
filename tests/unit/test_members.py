"""Which changes of a control plane are refused, and what is forgotten of a node that left."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, network_plan, ssh_keys, state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

THREE = {"main": ["m0", "m1", "m2"]}


def resolved(*masters: str, workers: Sequence[str] = (), cluster: str = "main") -> dict[str, Any]:
    nodes = [{"name": name, "group": "control_plane", "cluster": cluster} for name in masters]
    return {"nodes": nodes + [{"name": name, "group": "workers", "cluster": cluster} for name in workers]}


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_majority_is_more_than_half_of_the_members(count: int, needed: int) -> None:
    assert members.majority(count) == needed


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        (resolved("m0"), resolved("m0", "m1", "m2"), ""),
        (resolved("m0", "m1", "m2"), resolved("m1"), ""),
        (resolved("m0"), resolved("m1"), "m0: no other control plane node of cluster main would remain"),
        (
            resolved("m0", "m1"),
            resolved("m2", "m3"),
            "m0, m1: no other control plane node of cluster main would remain",
        ),
        (resolved("m0"), resolved("x0", cluster="other"), ""),
        (resolved("m0", workers=["w0"]), resolved("m0"), ""),
    ],
)
def test_a_cluster_keeps_one_of_its_control_plane_nodes(old: Any, new: Any, refused: str) -> None:
    if not refused:
        members.check_change(old, new)
        return
    with pytest.raises(DevenvError, match=refused) as raised:
        members.check_change(old, new)
    assert (raised.value.reason.id, raised.value.reason.exit) == ("control_plane_last", 14)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["w0"], ""),
        (["m0", "w0"], ""),
        (["m0", "m1"], "control_plane_last"),
        (["m7"], "node_unknown"),
    ],
)
def test_removal_of_the_last_control_plane_node_is_refused(names: list[str], reason: str) -> None:
    before = resolved("m0", "m1", workers=["w0"])
    if not reason:
        members.check_removal(before, names)
        return
    with pytest.raises(DevenvError) as raised:
        members.check_removal(before, names)
    assert raised.value.reason.id == reason


@pytest.mark.parametrize(
    ("before", "intact", "lost"),
    [
        (THREE, ["m0", "m1", "m2", "w0"], []),
        (THREE, ["m0", "m2"], []),
        (THREE, ["m2"], ["main"]),
        (THREE, ["w0"], ["main"]),
        ({"main": ["m0", "m1"]}, ["m0"], ["main"]),
        ({"main": ["m0"]}, [], ["main"]),
        ({"main": ["m0"], "b": ["x0", "x1", "x2"]}, ["m0", "x0"], ["b"]),
        ({"main": []}, [], []),  # its nodes left it
        ({}, [], []),
    ],
)
def test_a_cluster_without_a_majority_is_lost(
    before: dict[str, list[str]], intact: Collection[str], lost: list[str]
) -> None:
    assert list(members.lost(before, intact)) == lost


@pytest.mark.parametrize(
    ("intact", "reason", "parts"),
    [
        (["m2"], "quorum_lost", ["m0, m1 of the 3", "no majority (2 of 3)"]),
        ([], "cluster_lost", ["m0, m1, m2", "every object of cluster main; volumes on w0: pvc-1"]),
    ],
)
def test_a_loss_names_what_would_be_lost(intact: list[str], reason: str, parts: list[str]) -> None:
    error = members.loss("main", THREE["main"], intact, ["volumes on w0: pvc-1"])
    assert (error.reason.id, error.exit_code) == (reason, 9)
    assert all(part in error.message for part in [*parts, "pvc-1"])
    assert "--recreate" in error.advice
    assert "devenv_recreate=true" in error.advice


@pytest.mark.parametrize(
    ("before", "running", "names", "reason"),
    [
        (THREE, ["m0", "m1", "m2"], ["m0"], ""),
        (THREE, ["m0", "m1", "m2"], ["m0", "m1"], ""),
        (THREE, ["m1", "m2"], ["m0"], ""),
        (THREE, ["m1", "m2"], ["m0", "m1"], ""),  # the dead one first: two members, then one
        (THREE, ["m0", "m1"], ["m0"], "quorum_needed"),  # m2 does not run and stays a member
        (THREE, ["m0"], ["m1"], "quorum_needed"),
        (THREE, ["m0", "m1", "m2"], ["m0", "m1", "m2"], "control_plane_last"),
        (THREE, ["m0"], ["w0"], "quorum_needed"),
        (THREE, ["m0", "m1"], ["w0"], ""),
        ({"main": ["m0"]}, ["m0"], ["m0"], "control_plane_last"),
        ({"main": ["m0", "m1"]}, ["m0", "m1"], ["m1"], ""),
        ({"main": ["m0", "m1"]}, ["m0"], ["m1"], "quorum_needed"),
        ({"main": ["m0"]}, ["m0", "w0"], ["w0"], ""),
        ({}, [], ["w0"], ""),  # it never came up
        (THREE, ["m0"], ["m9"], "node_unknown"),
    ],
)
def test_a_replacement_that_costs_the_majority_is_refused(
    before: dict[str, list[str]], running: list[str], names: list[str], reason: str
) -> None:
    of_profile = resolved(*before.get("main", ["m0", "m1"]), workers=["w0"])
    if not reason:
        members.check_replacement(of_profile, before, running, names)
        return
    with pytest.raises(DevenvError) as raised:
        members.check_replacement(of_profile, before, running, names)
    assert raised.value.reason.id == reason


def test_members_are_recorded_and_removed(tmp_path: Path) -> None:
    assert members.recorded(tmp_path) == {}
    (tmp_path / "clusters" / "main").mkdir(parents=True)
    assert members.record(tmp_path, "main", ["master-0"])
    assert not members.record(tmp_path, "main", ["master-0"])
    (tmp_path / "clusters" / "broken").mkdir()
    (tmp_path / "clusters" / "broken" / "members.json").write_text("[oops")
    assert members.recorded(tmp_path) == {"main": ["master-0"]}
    members.record(tmp_path, "main", ["master-0", "master-1"])
    assert members.leave(tmp_path, ["master-1", "worker-0"])
    assert not members.leave(tmp_path, ["master-1"])
    assert members.recorded(tmp_path) == {"main": ["master-0"]}


def test_the_records_of_a_cluster_that_is_created_again_are_removed(tmp_path: Path) -> None:
    for cluster in ("main", "blue"):
        members.record(tmp_path, cluster, [f"{cluster}-0"])
    members.discard(tmp_path, ["main", "absent"])
    assert members.recorded(tmp_path) == {"blue": ["blue-0"]}


def test_a_node_that_left_is_forgotten_and_a_recreated_one_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "environments" / "lab"
    folder.mkdir(parents=True)
    before = resolve("master-2pipe")
    network = network_plan.make(before, {"ipv4": "10.213.9.0/24"})
    after = resolve("master-2pipe", overrides={"nodes.worker-0": None})
    state.write_profile(folder, after)
    state.write_network(folder, network)
    ssh_keys.ensure_hosts(folder, network["nodes"])
    assert members.forget(folder, after, ["worker-0", "worker-1"]) == ["worker-0"]
    remaining = state.read_network(folder) or {}
    assert list(remaining["nodes"]) == ["master-0", "worker-1"]
    assert remaining["nodes"]["worker-1"] == network["nodes"]["worker-1"]
    assert [line.split(",")[0] for line in (folder / "ssh" / "known_hosts").read_text().splitlines()] == [
        "master-0",
        "worker-1",
    ]
    assert not (folder / "ssh" / "hosts" / "worker-0").exists()
    assert list(yaml.safe_load((folder / "inventory.yml").read_text())["all"]["hosts"]) == ["master-0", "worker-1"]
    assert members.forget(folder, after, ["worker-0"]) == []


def test_the_stages_after_a_replacement_are_those_of_the_cluster() -> None:
    folder = paths.COLLECTION / "playbooks"

    def imports(name: str) -> list[str]:
        plays = yaml.safe_load((folder / name).read_text())
        return [play["ansible.builtin.import_playbook"] for play in plays if "ansible.builtin.import_playbook" in play]

    before, after = ["preflight.yml", "remove.yml"], [name for name in imports("cluster.yml") if name != "remove.yml"]
    assert imports("replace.yml") == [*before, *after[1:]]
