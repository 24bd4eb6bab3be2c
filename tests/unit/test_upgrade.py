"""Which step to another version may be taken, in which order nodes follow, what is noted of it."""

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
    ("old", "new", "reason", "exit_code", "says"),
    [
        ("1.35.4", "1.36.3", "", 0, ""),
        ("1.36.2", "1.36.3", "", 0, ""),
        ("1.36.2", "v1.36.3", "", 0, ""),
        ("1.36.3", "1.36.3", "upgrade_same", 14, "1.36.3 already"),
        ("1.36.3", "1.35.4", "upgrade_downgrade", 14, "1.36.3 -> 1.35.4"),
        (FORTY_PATCHES, "1.36.3", "upgrade_downgrade", 14, "downgrade"),
        ("1.34.1", "1.36.3", "upgrade_skips_minor", 14, "1.34.1 -> 1.36.3"),
        ("1.36.3", "1.36", "bundle_version_unknown", 2, "1.36.3"),
        ("1.36.3", "1.99.0", "bundle_version_unknown", 2, "1.99.0"),
        ("1.36.3", "latest", "bundle_version_unknown", 2, "latest"),
    ],
)
def test_steps(old: str, new: str, reason: str, exit_code: int, says: str) -> None:
    if not reason:
        assert upgrade.check("lab", old, new, None).kubernetes == "1.36.3"
        return
    with pytest.raises(DevenvError) as refused:
        upgrade.check("lab", old, new, None)
    assert (refused.value.reason.id, refused.value.exit_code) == (reason, exit_code)
    assert says in str(refused.value)


def test_who_skips_a_minor_is_told_the_step_between() -> None:
    with pytest.raises(DevenvError) as refused:
        upgrade.check("lab", "1.34.1", "1.36.3", None)
    assert "devenv upgrade -n lab --kubernetes 1.35.4 first" in refused.value.advice


def test_every_known_version_but_the_oldest_minor_can_be_reached_from_another() -> None:
    """A bundle that nobody can come to from one of the others would be a hole in the line."""
    minors = sorted({changes.version_number(one)[:2] for one in KNOWN})
    for minor in minors[1:]:
        target = next(one for one in KNOWN if changes.version_number(one)[:2] == minor)
        assert "upgrade" in {changes.version_step(one, target) for one in KNOWN}


# --- an upgrade that has begun ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "environments" / "lab"
    place.mkdir(parents=True)
    resolved = resolve("master-2pipe", overrides={"kubernetes.version": "1.35.4"})
    state.write_profile(place, resolved)
    return place


def test_what_has_begun_goes_on_and_nothing_else_begins(folder: Path) -> None:
    assert upgrade_record.pending(folder) is None
    upgrade_record.require_finished(folder)
    assert upgrade_record.begin(folder, "1.35.4", "1.36.3")
    begun = upgrade_record.pending(folder)
    assert begun == {"from": "1.35.4", "to": "1.36.3"}
    # The same version is the way on, whatever profile.yml says by now; another one is not.
    assert upgrade.check("lab", "1.36.3", "1.36.3", begun).kubernetes == "1.36.3"
    for refused in (
        lambda: upgrade.check("lab", "1.35.4", "1.35.4", begun),
        lambda: upgrade_record.require_finished(folder),
    ):
        with pytest.raises(DevenvError) as error:
            refused()
        assert (error.value.reason.id, error.value.exit_code) == ("upgrade_unfinished", 14)
        assert "devenv upgrade -n lab --kubernetes 1.36.3 goes on" in error.value.advice


def test_at_the_end_the_state_folder_says_the_new_version(folder: Path) -> None:
    upgrade_record.begin(folder, "1.35.4", "1.36.3")
    assert upgrade_record.finish(folder, "1.36.3")
    assert upgrade_record.pending(folder) is None
    assert yaml.safe_load((folder / "profile.yml").read_text())["kubernetes"]["version"] == "1.36.3"
    assert "devenv_kubernetes_version: 1.36.3" in (folder / "inventory.yml").read_text()
    assert upgrade_record.finish(folder, "1.36.3") is False
    # And that is the profile that `up` compares with.
    assert changes.between(state.read_profile(folder) or {}, resolve("master-2pipe")) == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"from": "1.35.4"}', "\x00"])
def test_a_broken_note_is_told(folder: Path, text: str) -> None:
    (folder / upgrade_record.FILE).write_text(text)
    with pytest.raises(DevenvError, match=r"upgrade\.json"):
        upgrade_record.pending(folder)


@pytest.mark.parametrize("check", [False, True])
def test_only_runs_that_say_so_begin_meanwhile(folder: Path, check: bool) -> None:
    upgrade_record.begin(folder, "1.35.4", "1.36.3")
    resolved, before = state.read_profile(folder), sorted(path.name for path in folder.iterdir())
    me = lock.holder_of(os.getpid(), "r1", "a test", "")
    with pytest.raises(DevenvError) as refused:
        stages.begin(folder, me, "preflight", resolved=resolved, hosts=3, check=check)
    assert refused.value.reason.id == "upgrade_unfinished"
    assert sorted(path.name for path in folder.iterdir()) == before
    assert stages.begin(folder, me, "preflight", resolved=resolved, hosts=3, check=check, while_upgrading=True).first


def test_down_is_never_refused(folder: Path) -> None:
    upgrade_record.begin(folder, "1.35.4", "1.36.3")
    me = lock.holder_of(os.getpid(), "r1", "a test", "")
    assert stages.begin(folder, me, "down", resolved=None, hosts=0).first


# --- whether the clusters are whole ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "begun", "says"),
    [
        ({"master-0": True, "worker-0": True, "worker-1": True}, False, ""),
        ({"master-0": True, "worker-0": False, "worker-1": True}, True, ""),
        ({"master-0": True, "worker-0": False, "worker-1": False}, False, "worker-0, worker-1 not Ready"),
        ({"master-0": True, "worker-1": True}, False, "worker-0 not in the cluster"),
        ({"master-0": True, "worker-1": False}, False, "worker-0 not in the cluster; worker-1 not Ready"),
        ({}, True, ""),
    ],
)
def test_a_cluster_that_is_not_whole_is_refused(seen: dict[str, bool], begun: bool, says: str) -> None:
    found = {name: NodeVersion("1.35.4", ready) for name, ready in seen.items()}
    if not says:
        upgrade.require_ready(resolve("master-2pipe"), found, begun)
        return
    with pytest.raises(DevenvError) as refused:
        upgrade.require_ready(resolve("master-2pipe"), found, begun)
    assert (refused.value.reason.id, refused.value.exit_code) == ("upgrade_not_ready", 9)
    assert str(refused.value) == says


def test_without_an_answer_nothing_begins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DevenvError, match="main is not made yet"):
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
    # A killed upgrade may have left the only API server down, and is what brings it back.
    assert upgrade.node_versions(folder, ["main"], begun=True) == {}


# --- the plan --------------------------------------------------------------------------------------------------------


def test_the_order_is_kubeadms() -> None:
    resolved = resolve("ha")
    resolved["nodes"].reverse()
    resolved["nodes"].append({**resolved["nodes"][0], "name": "worker-9", "cluster": None})
    found = [(node["name"], command) for node, command in upgrade.order(resolved, "1.36.3")]
    assert found[0] == ("master-2", "kubeadm upgrade apply v1.36.3")
    assert [name for name, _ in found] == ["master-2", "master-1", "master-0", "worker-1", "worker-0"]
    assert {command for _, command in found[1:]} == {"kubeadm upgrade node"}


def test_every_cluster_has_a_first() -> None:
    resolved = resolve(
        "ha",
        overrides={
            "clusters.second": {},
            "nodes.master-2.cluster": "second",
            "nodes.worker-1.cluster": "second",
        },
    )
    found = [(node["name"], "apply" in command) for node, command in upgrade.order(resolved, "1.36.3")]
    assert found == [
        ("master-0", True),
        ("master-2", True),
        ("master-1", False),
        ("worker-0", False),
        ("worker-1", False),
    ]


def test_the_plan_of_a_patch_release() -> None:
    new = upgrade.check("lab", "1.36.2", "1.36.3", None)
    seen = {name: NodeVersion("1.36.2", ready=True) for name in ("master-0", "worker-0", "worker-1")}
    found = upgrade.plan("lab", resolve("master-2pipe") | {"kubernetes": {"version": "1.36.2"}}, new, seen, None, True)
    assert (found["from"], found["to"], found["begun"], found["parts"]) == ("1.36.2", "1.36.3", False, {})
    assert upgrade.lines(found) == [
        "lab: Kubernetes 1.36.2 -> 1.36.3",
        "binaries and images: present",
        "1. master-0: kubeadm upgrade apply v1.36.3, drain, kubelet 1.36.2 -> 1.36.3, uncordon",
        "2. worker-0: kubeadm upgrade node, drain, kubelet 1.36.2 -> 1.36.3, uncordon",
        "3. worker-1: kubeadm upgrade node, drain, kubelet 1.36.2 -> 1.36.3, uncordon",
    ]


def test_the_plan_of_a_minor_release_that_has_begun() -> None:
    begun = {"from": "1.35.4", "to": "1.36.3"}
    new = upgrade.check("lab", "1.35.4", "1.36.3", begun)
    found = upgrade.plan("lab", resolve("aio"), new, {"master-0": NodeVersion("1.36.3", ready=True)}, begun, False)
    told = upgrade.lines(found)
    assert told[0] == "lab: Kubernetes 1.35.4 -> 1.36.3, continued"
    assert "etcd 3.6.6-0 -> 3.6.8-0" in told[1]
    assert "built first" in told[2]
    assert told[3] == "1. master-0: upgraded already, is checked"
    json.dumps(found)


# --- what is brought to nodes ----------------------------------------------------------------------------------------


def test_images_that_the_new_version_has_no_use_for() -> None:
    found = upgrade_delivery.outdated("1.35.4", "1.36.3")
    assert "registry.k8s.io/kube-proxy:v1.35.4" in found
    assert not set(found) & set(versions.resolve("1.36.3").images.values())
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
    made = Manifest("1.36.3", "amd64", "modules", "0" * 12, "2026-01-01T00:00:00Z", tuple(rows), tuple(images))
    return store.Bundle(path, made)


def row(name: str) -> str:
    return f"{name} application/x sha256:ab complete (1/1) 1 MiB/1 MiB true\n"


def test_a_node_gets_what_it_lacks_and_uses(
    bundle: store.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for ssh: the stage is a folder here, and tar is real."""
    stages = {name: tmp_path / name for name in ("master-0", "worker-0")}
    targets = []
    for name, stage in stages.items():
        stage.mkdir()
        script = f'eval "$(printf %s "$1" | sed s,{upgrade_delivery.STAGE},{stage},)"'
        targets.append(remote.Target(name, ("sh", "-c", script, "ssh")))
    have = {
        "master-0": {"missing": ["kubeadm", "kubelet"], "images": row(IMAGES[2])},
        "worker-0": {"missing": ["kubelet"], "images": row(IMAGES[2])},
    }
    monkeypatch.setattr(remote, "ask_all", lambda *_a: {name: remote.Answer(name, data) for name, data in have.items()})
    loaded: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(
        image_load,
        "load",
        lambda path, nodes, **_m: loaded.append((path.name, [n.name for n in nodes])),
    )
    wanted = {"master-0": ["kubeadm", "kubelet", *IMAGES[:2]], "worker-0": ["kubelet", IMAGES[1]]}
    assert upgrade_delivery.deliver(bundle, targets, ["master-0"], lambda _text: None, write=False) == wanted
    assert loaded == []
    assert [list(stage.iterdir()) for stage in stages.values()] == [[], []]
    assert upgrade_delivery.deliver(bundle, targets, ["master-0"], lambda _text: None) == wanted
    assert loaded == [("0.tar", ["master-0"]), ("1.tar", ["master-0", "worker-0"])]
    assert sorted(path.name for path in stages["master-0"].iterdir()) == ["kubeadm", "kubelet"]
    assert (stages["worker-0"] / "kubelet").read_text() == "kubelet of the new version"
    assert not (stages["worker-0"] / "kubeadm").exists()


def test_nodes_that_get_no_programs_are_named(bundle: store.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
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
