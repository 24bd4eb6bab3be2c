"""Snapshots on disk: the catalogue, comparison with a profile, the start of an environment from a snapshot."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import begin, catalogue, record, transfer
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target


def resolved(**changes: Any) -> dict[str, Any]:
    nodes = [
        {"name": "master-0", "group": "control_plane", "cluster": "main", "memory": 1, "labels": {}},
        {"name": "worker-0", "group": "workers", "cluster": "main", "memory": 1, "labels": {}},
    ]
    return {
        "profile": "mine", "topology": "mine", "stack": "ipv4",
        "kubernetes": {"version": "1.36.3", "engine": "kubeadm"},
        "network": {"pods": {"ipv4": "10.244.0.0/16"}, "services": {"ipv4": "10.96.0.0/16"}},
        "nodes": nodes, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"profile": "other"}, []),
        ({"topology": "ha"}, ["topology"]),
        ({"stack": "dualstack"}, ["stack"]),
        ({"kubernetes": {"version": "1.35.4", "engine": "kubeadm"}}, ["1.36.3", "1.35.4"]),
        ({"nodes": resolved()["nodes"][:1]}, ["worker-0"]),
        ({"nodes": [*resolved()["nodes"], {"name": "worker-1", "group": "workers", "cluster": "main"}]}, ["worker-1"]),
        ({"nodes": [{**node, "memory": 2, "labels": {"a": "b"}} for node in resolved()["nodes"]]}, []),
        ({"nodes": [{**node, "cluster": "two"} for node in resolved()["nodes"]]}, ["master-0", "worker-0"]),
    ],
)
def test_differences_between_a_profile_and_a_snapshot(changes: dict[str, Any], words: list[str]) -> None:
    profiles: list[Any] = [resolved(), resolved(**changes)]
    text = " | ".join(begin.differences(*profiles))
    assert bool(text) == bool(words)
    assert all(word in text for word in words)


def saved(home: Path, name: str, **changes: Any) -> Path:
    folder = catalogue.folder_of(home) / name
    folder.mkdir(parents=True)
    (folder / "etcd-main.db").write_bytes(b"data")
    manifest = {
        "format": catalogue.FORMAT,
        "made": "2026-11-21T15:00:00+00:00",
        "environment": "aio",
        "profile": resolved(),
        "network": {"subnets": {"ipv4": "10.213.9.0/24"}, "bridge": "podman3", "clusters": {}, "nodes": {}},
        "nodes": {
            node["name"]: {"images": [], "archive": "", "volumes": "", "paths": []} for node in resolved()["nodes"]
        },
        "clusters": {"main": {"etcd": "etcd-main.db"}},
        "files": {"etcd-main.db": transfer.describe(folder / "etcd-main.db")},
    }
    (folder / catalogue.MANIFEST).write_text(json.dumps({**manifest, **changes}))
    return folder


def refusal(home: Path, folder: Path, requested: str, profile: dict[str, Any] | None = None) -> str:
    with pytest.raises(DevenvError) as caught:
        begin.begin(home, folder, requested, profile or resolved())
    assert record.read(folder) is None or requested == "other"
    return caught.value.reason.id


def test_the_list_marks_broken_snapshots(tmp_path: Path) -> None:
    saved(tmp_path, "good")
    (saved(tmp_path, "cut") / "etcd-main.db").write_bytes(b"d")
    (saved(tmp_path, "mad") / catalogue.MANIFEST).write_text("{")
    rows = {row["name"]: row for row in catalogue.rows(tmp_path)}
    assert {name: row["state"] for name, row in rows.items()} == {"good": "whole", "cut": "broken", "mad": "broken"}
    assert (rows["good"]["bytes"], rows["good"]["kubernetes"]) == (4, "1.36.3")
    assert catalogue.rows(tmp_path / "nowhere") == []


def test_the_error_for_an_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    saved(tmp_path, "with-data")
    with pytest.raises(DevenvError) as caught:
        catalogue.read(tmp_path, "with-dat")
    assert caught.value.reason.id == "snapshot_unknown"
    assert "with-data" in caught.value.advice


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-a", "a" * 50])
def test_invalid_names_are_rejected(tmp_path: Path, name: str) -> None:
    for function in (catalogue.read, catalogue.remove, catalogue.check_new):
        with pytest.raises(DevenvError) as caught:
            function(tmp_path, name)
        assert caught.value.reason.id == "snapshot_name"


def test_begin_checks_everything_before_it_writes_a_record(tmp_path: Path) -> None:
    home, folder = tmp_path, tmp_path / "environments" / "new"
    folder.mkdir(parents=True)
    saved(home, "good")
    assert refusal(home, folder, "god") == "snapshot_unknown"
    assert refusal(home, folder, "good", resolved(topology="ha")) == "snapshot_differs"
    (saved(home, "changed") / "etcd-main.db").write_bytes(b"atad")  # of the same length
    assert refusal(home, folder, "changed") == "snapshot_broken"
    saved(home, "huge", files={"etcd-main.db": {**transfer.describe(home / "snapshots/good/etcd-main.db")}})
    assert begin.begin(home, folder, "good", resolved(), check=True) == "good"
    assert record.read(folder) is None


def test_a_snapshot_that_does_not_fit_is_refusal(tmp_path: Path) -> None:
    with pytest.raises(DevenvError) as caught:
        begin.need_space(tmp_path / "not" / "there", 1 << 60)
    assert caught.value.reason.id == "snapshot_disk"
    begin.need_space(tmp_path, 0)


def test_an_existing_environment_cannot_start_from_a_snapshot(tmp_path: Path) -> None:
    folder = tmp_path / "environments" / "old"
    files.write(folder / "network.yml", "subnets: {}\nclusters: {}\nnodes: {}\n")
    saved(tmp_path, "good")
    assert refusal(tmp_path, folder, "good") == "snapshot_environment"


def test_begin_continues_until_the_environment_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "environments" / "new"
    saved(tmp_path, "good")
    saved(tmp_path, "other")
    assert begin.begin(tmp_path, folder, "", resolved()) == ""
    assert begin.begin(tmp_path, folder, "good", resolved()) == "good"
    files.write(folder / "network.yml", "subnets: {}\nclusters: {}\nnodes: {}\n")
    assert begin.begin(tmp_path, folder, "", resolved()) == "good"
    assert refusal(tmp_path, folder, "other") == "snapshot_environment"
    with pytest.raises(DevenvError) as caught:
        catalogue.remove(tmp_path, "good")
    assert caught.value.reason.id == "snapshot_in_use"
    assert record.finish(folder)
    assert not record.finish(folder)
    assert begin.begin(tmp_path, folder, "", resolved()) == ""
    assert begin.begin(tmp_path, folder, "good", resolved()) == ""
    catalogue.remove(tmp_path, "good")
    assert catalogue.names(tmp_path) == ["other"]
    assert list(catalogue.folder_of(tmp_path).iterdir()) == [catalogue.folder_of(tmp_path) / "other"]


def test_a_broken_snapshot_can_be_removed(tmp_path: Path) -> None:
    (saved(tmp_path, "mad") / catalogue.MANIFEST).write_text("{")
    catalogue.remove(tmp_path, "mad")
    assert catalogue.names(tmp_path) == []


def test_several_nodes_request_their_saved_addresses(tmp_path: Path) -> None:
    saved(tmp_path, "good")
    folder = tmp_path / "environments" / "new"
    assert begin.seed_network(catalogue.read(tmp_path, "good"), folder)
    assert "bridge" not in (folder / "network.yml").read_text()
    assert not begin.seed_network(catalogue.read(tmp_path, "good"), folder)


@pytest.mark.parametrize(("index", "seeded"), [(0, False), (1, True)])
def test_a_single_node_gets_a_new_address_unless_its_pod_range_depends_on_its_index(
    tmp_path: Path, index: int, seeded: bool
) -> None:
    node = {"index": index, "mac": "", "addresses": {}, "group": "control_plane", "cluster": "main"}
    network = {"subnets": {}, "gateways": {}, "clusters": {}, "nodes": {"master-0": node}}
    saved(tmp_path, "one", nodes={"master-0": {}}, network=network)
    folder = tmp_path / "environments" / "new"
    assert begin.seed_network(catalogue.read(tmp_path, "one"), folder) is seeded


def test_a_fetched_file_is_private_and_complete(tmp_path: Path) -> None:
    target = Target("here", ("bash", "-c"))
    entry = transfer.fetch(target, "printf 'some data'", tmp_path / "x")
    assert entry == transfer.describe(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "some data"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600


@pytest.mark.parametrize("script", ["printf half; exit 3", "false | cat", "kill -9 $$"])
def test_a_failing_script_on_the_node_is_an_error(tmp_path: Path, script: str) -> None:
    with pytest.raises(DevenvError) as caught:
        transfer.fetch(Target("here", ("bash", "-c")), script, tmp_path / "x")
    assert caught.value.reason.id == "snapshot_failed"
