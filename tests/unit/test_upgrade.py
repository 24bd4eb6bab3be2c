"""Allowed versions, order of the nodes, and the record of an upgrade."""

from __future__ import annotations

import json
import os
import socket
import ssl
from pathlib import Path

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store, versions
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import File, Image, Manifest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, stages, state, upgrade_record
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import changes
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import image_load, remote
from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import delivery as upgrade_delivery
from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import plan as upgrade
from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades.plan import NodeVersion

DEFAULT, KNOWN = versions.known()
FORTY_PATCHES = "1.36.43"


@pytest.mark.parametrize(
    ("old", "new", "reason", "exit_code", "message"),
    [
        ("1.35.4", "1.36.3", "", 0, ""),
        ("1.36.2", "1.36.3", "", 0, ""),
        ("1.36.2", "v1.36.3", "", 0, ""),
        ("1.36.3", "1.36.3", "upgrade_same", 14, "already has Kubernetes 1.36.3"),
        ("1.36.3", "1.35.4", "upgrade_downgrade", 14, "1.36.3 -> 1.35.4"),
        (FORTY_PATCHES, "1.36.3", "upgrade_downgrade", 14, "downgrade"),
        ("1.34.1", "1.36.3", "upgrade_skips_minor", 14, "1.34.1 -> 1.36.3"),
        ("1.36.3", "1.36", "bundle_version_unknown", 2, "1.36.3"),
        ("1.36.3", "1.99.0", "bundle_version_unknown", 2, "1.99.0"),
        ("1.36.3", "latest", "bundle_version_unknown", 2, "latest"),
    ],
)
def test_only_allowed_versions_are_accepted(old: str, new: str, reason: str, exit_code: int, message: str) -> None:
    if not reason:
        assert upgrade.check("lab", old, new, None).kubernetes == "1.36.3"
        return
    with pytest.raises(DevenvError) as refused:
        upgrade.check("lab", old, new, None)
    assert (refused.value.reason.id, refused.value.exit_code) == (reason, exit_code)
    assert message in str(refused.value)


def test_the_advice_for_a_skipped_minor_version_names_the_next_one() -> None:
    with pytest.raises(DevenvError) as refused:
        upgrade.check("lab", "1.34.1", "1.36.3", None)
    assert "devenv upgrade -n lab --kubernetes 1.35.4 first" in refused.value.advice


def test_every_minor_version_but_the_oldest_can_be_reached_from_another() -> None:
    minors = sorted({changes.version_number(version)[:2] for version in KNOWN})
    for minor in minors[1:]:
        target = next(version for version in KNOWN if changes.version_number(version)[:2] == minor)
        assert "upgrade" in {changes.version_step(version, target) for version in KNOWN}


# --- an unfinished upgrade -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "environments" / "lab"
    place.mkdir(parents=True)
    resolved = resolve("master-2pipe", overrides={"kubernetes.version": "1.35.4"})
    state.write_profile(place, resolved)
    return place


def test_an_unfinished_upgrade_can_only_be_continued(folder: Path) -> None:
    assert upgrade_record.pending(folder) is None
    upgrade_record.require_finished(folder)
    assert upgrade_record.begin(folder, "1.35.4", "1.36.3")
    begun = upgrade_record.pending(folder)
    assert begun == {"from": "1.35.4", "to": "1.36.3"}
    # Only the same version is accepted, whatever the current version in profile.yml.
    assert upgrade.check("lab", "1.36.3", "1.36.3", begun).kubernetes == "1.36.3"
    for refused in (
        lambda: upgrade.check("lab", "1.35.4", "1.35.4", begun),
        lambda: upgrade_record.require_finished(folder),
    ):
        with pytest.raises(DevenvError) as error:
            refused()
        assert (error.value.reason.id, error.value.exit_code) == ("upgrade_unfinished", 14)
        assert "devenv upgrade -n lab --kubernetes 1.36.3 continues" in error.value.advice


def test_finish_writes_the_new_version_to_the_state_folder(folder: Path) -> None:
    upgrade_record.begin(folder, "1.35.4", "1.36.3")
    assert upgrade_record.finish(folder, "1.36.3")
    assert upgrade_record.pending(folder) is None
    assert yaml.safe_load((folder / "profile.yml").read_text())["kubernetes"]["version"] == "1.36.3"
    assert "devenv_kubernetes_version: 1.36.3" in (folder / "inventory.yml").read_text()
    assert upgrade_record.finish(folder, "1.36.3") is False
    # `up` compares with this profile.
    assert changes.between(state.read_profile(folder) or {}, resolve("master-2pipe")) == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"from": "1.35.4"}', "\x00"])
def test_a_broken_record_is_an_error(folder: Path, text: str) -> None:
    (folder / upgrade_record.FILE).write_text(text)
    with pytest.raises(DevenvError, match=r"upgrade\.json"):
        upgrade_record.pending(folder)


@pytest.mark.parametrize("check", [False, True])
def test_only_runs_with_while_upgrading_begin_during_an_upgrade(folder: Path, check: bool) -> None:
    upgrade_record.begin(folder, "1.35.4", "1.36.3")
    resolved, before = state.read_profile(folder), sorted(path.name for path in folder.iterdir())
    me = lock.holder_of(os.getpid(), "r1", "a test", "")
    with pytest.raises(DevenvError) as refused:
        stages.begin(folder, me, "preflight", resolved=resolved, hosts=3, check=check)
    assert refused.value.reason.id == "upgrade_unfinished"
    assert sorted(path.name for path in folder.iterdir()) == before
    assert stages.begin(folder, me, "preflight", resolved=resolved, hosts=3, check=check, while_upgrading=True).first


def test_down_is_allowed_during_an_upgrade(folder: Path) -> None:
    upgrade_record.begin(folder, "1.35.4", "1.36.3")
    me = lock.holder_of(os.getpid(), "r1", "a test", "")
    assert stages.begin(folder, me, "down", resolved=None, hosts=0).first


# --- readiness of the clusters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "begun", "message"),
    [
        ({"master-0": True, "worker-0": True, "worker-1": True}, False, ""),
        ({"master-0": True, "worker-0": False, "worker-1": True}, True, ""),
        ({"master-0": True, "worker-0": False, "worker-1": False}, False, "worker-0, worker-1 not Ready"),
        ({"master-0": True, "worker-1": True}, False, "worker-0 not in the cluster"),
        ({"master-0": True, "worker-1": False}, False, "worker-0 not in the cluster; worker-1 not Ready"),
        ({}, True, ""),
    ],
)
def test_a_cluster_that_is_not_ready_is_refused(nodes: dict[str, bool], begun: bool, message: str) -> None:
    states = {name: NodeVersion("1.35.4", ready) for name, ready in nodes.items()}
    if not message:
        upgrade.require_ready(resolve("master-2pipe"), states, begun)
        return
    with pytest.raises(DevenvError) as refused:
        upgrade.require_ready(resolve("master-2pipe"), states, begun)
    assert (refused.value.reason.id, refused.value.exit_code) == ("upgrade_not_ready", 9)
    assert str(refused.value) == message


def test_an_upgrade_does_not_begin_without_an_answer_of_the_api(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DevenvError, match="main is not created yet"):
        upgrade.node_versions(folder, ["main"], begun=False)
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    access = client.Access(f"https://127.0.0.1:{port}", "", token="t")
    monkeypatch.setattr(client, "read_access", lambda _path: access)
    monkeypatch.setattr(client, "_tls", lambda _access: ssl.create_default_context())
    (folder / "clusters" / "main").mkdir(parents=True)
    (folder / "clusters" / "main" / "kubeconfig").touch()
    with pytest.raises(DevenvError, match="main does not answer") as refused:
        upgrade.node_versions(folder, ["main"], begun=False)
    assert refused.value.exit_code == 9
    # A killed upgrade may have left the only API server down; continuing it starts the server again.
    assert upgrade.node_versions(folder, ["main"], begun=True) == {}


# --- the plan --------------------------------------------------------------------------------------------------------


def test_nodes_are_in_the_order_that_kubeadm_requires() -> None:
    resolved = resolve("ha")
    resolved["nodes"].reverse()
    resolved["nodes"].append({**resolved["nodes"][0], "name": "worker-9", "cluster": None})
    commands = [(node["name"], command) for node, command in upgrade.order(resolved, "1.36.3")]
    assert commands[0] == ("master-2", "kubeadm upgrade apply v1.36.3")
    assert [name for name, _ in commands] == ["master-2", "master-1", "master-0", "worker-1", "worker-0"]
    assert {command for _, command in commands[1:]} == {"kubeadm upgrade node"}


def test_each_cluster_has_its_first_node() -> None:
    resolved = resolve(
        "ha",
        overrides={
            "clusters.second": {},
            "nodes.master-2.cluster": "second",
            "nodes.worker-1.cluster": "second",
        },
    )
    commands = [(node["name"], "apply" in command) for node, command in upgrade.order(resolved, "1.36.3")]
    assert commands == [
        ("master-0", True),
        ("master-2", True),
        ("master-1", False),
        ("worker-0", False),
        ("worker-1", False),
    ]


def test_the_plan_of_a_patch_release() -> None:
    new = upgrade.check("lab", "1.36.2", "1.36.3", None)
    nodes = {name: NodeVersion("1.36.2", ready=True) for name in ("master-0", "worker-0", "worker-1")}
    plan = upgrade.plan("lab", resolve("master-2pipe") | {"kubernetes": {"version": "1.36.2"}}, new, nodes, None, True)
    assert (plan["from"], plan["to"], plan["begun"], plan["parts"]) == ("1.36.2", "1.36.3", False, {})
    assert upgrade.lines(plan) == [
        "lab: Kubernetes 1.36.2 -> 1.36.3",
        "binaries and images: present",
        "1. master-0: kubeadm upgrade apply v1.36.3, drain, kubelet 1.36.2 -> 1.36.3, uncordon",
        "2. worker-0: kubeadm upgrade node, drain, kubelet 1.36.2 -> 1.36.3, uncordon",
        "3. worker-1: kubeadm upgrade node, drain, kubelet 1.36.2 -> 1.36.3, uncordon",
    ]


def test_the_plan_of_a_minor_release_that_has_begun() -> None:
    begun = {"from": "1.35.4", "to": "1.36.3"}
    new = upgrade.check("lab", "1.35.4", "1.36.3", begun)
    plan = upgrade.plan("lab", resolve("aio"), new, {"master-0": NodeVersion("1.36.3", ready=True)}, begun, False)
    lines = upgrade.lines(plan)
    assert lines[0] == "lab: Kubernetes 1.35.4 -> 1.36.3, continued"
    assert "etcd 3.6.6-0 -> 3.6.8-0" in lines[1]
    assert "built first" in lines[2]
    assert lines[3] == "1. master-0: already upgraded; check only"
    json.dumps(plan)


# --- delivery to nodes -----------------------------------------------------------------------------------------------


def test_outdated_images_are_those_that_the_new_version_does_not_use() -> None:
    images = upgrade_delivery.outdated("1.35.4", "1.36.3")
    assert "registry.k8s.io/kube-proxy:v1.35.4" in images
    assert not set(images) & set(versions.resolve("1.36.3").images.values())
    assert upgrade_delivery.outdated("1.36.3", "1.36.3") == []
    assert upgrade_delivery.outdated("0.0.1", "1.36.3") == []


IMAGES = ["registry.k8s.io/kube-apiserver:v1", "registry.k8s.io/kube-proxy:v1", "registry.k8s.io/pause:3"]


@pytest.fixture
def bundle(tmp_path: Path) -> store.Bundle:
    path = tmp_path / "bundle"
    (path / "bin").mkdir(parents=True)
    rows = []
    for name in ("kubeadm", "kubelet", "helm"):
        (path / "bin" / name).write_text(f"{name} of the new version")
        rows.append(File(f"bin/{name}", "sha-" + name, 3, "1", "x"))
    images = [Image(name, "sha256:1", f"images/{number}.tar") for number, name in enumerate([*IMAGES, "optional:1"])]
    rows += [File(image.path, "sha", 3, "1", "x", part="metrics" if ":1" in image.name else "") for image in images]
    manifest = Manifest("1.36.3", "amd64", "modules", "0" * 12, "2026-01-01T00:00:00Z", tuple(rows), tuple(images))
    return store.Bundle(path, manifest)


def row(name: str) -> str:
    return f"{name} application/x sha256:ab complete (1/1) 1 MiB/1 MiB true\n"


def test_a_node_receives_what_it_lacks_and_uses(
    bundle: store.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh is replaced by a local shell with a folder per node; tar is real."""
    stages = {name: tmp_path / name for name in ("master-0", "worker-0")}
    targets = []
    for name, stage in stages.items():
        stage.mkdir()
        script = f'eval "$(printf %s "$1" | sed s,{upgrade_delivery.STAGE},{stage},)"'
        targets.append(remote.Target(name, ("sh", "-c", script, "ssh")))
    present = {
        "master-0": {"missing": ["kubeadm", "kubelet"], "images": row(IMAGES[2])},
        "worker-0": {"missing": ["kubelet"], "images": row(IMAGES[2])},
    }
    monkeypatch.setattr(
        remote, "ask_all", lambda *_a: {name: remote.Answer(name, data) for name, data in present.items()}
    )
    loaded: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(
        image_load,
        "load",
        lambda path, nodes, **_m: loaded.append((path.name, [n.name for n in nodes])),
    )
    lacking = {"master-0": ["kubeadm", "kubelet", *IMAGES[:2]], "worker-0": ["kubelet", IMAGES[1]]}
    assert upgrade_delivery.deliver(bundle, targets, ["master-0"], lambda _text: None, write=False) == lacking
    assert loaded == []
    assert [list(stage.iterdir()) for stage in stages.values()] == [[], []]
    assert upgrade_delivery.deliver(bundle, targets, ["master-0"], lambda _text: None) == lacking
    assert loaded == [("0.tar", ["master-0"]), ("1.tar", ["master-0", "worker-0"])]
    assert sorted(path.name for path in stages["master-0"].iterdir()) == ["kubeadm", "kubelet"]
    assert (stages["worker-0"] / "kubelet").read_text() == "kubelet of the new version"
    assert not (stages["worker-0"] / "kubeadm").exists()


def test_nodes_whose_delivery_fails_are_named(bundle: store.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = {
        "m": remote.Answer("m", trouble="no answer within 1 s"),
        "w": remote.Answer("w", {"missing": [], "images": ""}),
    }
    monkeypatch.setattr(remote, "ask_all", lambda *_a: silent)
    targets = [remote.Target(name, ("false",)) for name in silent]
    with pytest.raises(DevenvError, match="m: no answer") as failed:
        upgrade_delivery.deliver(bundle, targets, ["m"], lambda _text: None)
    assert failed.value.exit_code == 5
    broken = {"m": remote.Answer("m", {"missing": ["kubelet"], "images": ""})}
    monkeypatch.setattr(remote, "ask_all", lambda *_a: broken)
    with pytest.raises(DevenvError, match="m: ") as failed:
        upgrade_delivery.deliver(bundle, targets[:1], ["m"], lambda _text: None)
    assert failed.value.reason.id == "upgrade_delivery"
