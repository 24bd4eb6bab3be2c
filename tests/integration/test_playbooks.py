"""Playbooks that need no node, run by real ansible-playbook: bundles, snapshots, nodes that exist only in the state."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import manifest, store
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from support import bundles
from support.commands import ROOT, start_ansible

PLAYBOOKS = ROOT / "playbooks"


@dataclass
class Lab:
    """A home, a cache, and the environment ``lab``, which does not use podman."""

    path: Path

    @property
    def folder(self) -> Path:
        return self.path / "home" / "environments" / "lab"

    @property
    def cache(self) -> Path:
        return self.path / "cache" / "devenv"

    def run(
        self, playbook: str | Path, *words: str, variables: dict[str, str] | None = None, **extra: Any
    ) -> tuple[int, str]:
        path = PLAYBOOKS / f"{playbook}.yml" if isinstance(playbook, str) else playbook
        words = (str(path), "-v", "-e", json.dumps(extra), *words)
        cache = {"XDG_CACHE_HOME": str(self.path / "cache"), **(variables or {})}
        child = start_ansible(*words, home=self.path / "home", cwd=ROOT, variables=cache)
        text, _ = child.communicate(timeout=120)
        return child.returncode, text

    def result(self, playbook: str | Path, *words: str, **extra: Any) -> dict[str, Any]:
        """Run a playbook that must succeed; return the result of its last task."""
        code, text = self.run(playbook, *words, **extra)
        assert code == 0, text
        result: dict[str, Any] = json.JSONDecoder().raw_decode(text.rpartition("[localhost] => ")[2])[0]
        return result

    def nodes(self) -> list[str]:
        resolved = state.read_profile(self.folder)
        assert resolved is not None
        return [node["name"] for node in resolved["nodes"]]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    made.folder.mkdir(parents=True)
    resolved = resolve("master-2pipe", overrides={"provider": "libvirt"})
    state.write_profile(made.folder, resolved)
    state.write_network(made.folder, {**network_plan.make(resolved, {"ipv4": "10.213.9.0/24"}), "bridge": "lab9"})
    return made


@pytest.mark.parametrize(
    ("playbook", "extra", "message"),
    [
        ("bundle_export", {}, "devenv_archive is not given"),
        ("bundle_import", {"devenv_archive": "/there/is/none.tar"}, "none.tar"),
        ("bundle_verify", {}, "no bundle of"),
        ("snapshot_remove", {}, "devenv_snapshot is not given"),
        ("snapshot_remove", {"devenv_snapshot": "none"}, "snapshot none does not exist"),
        ("base_image_build", {}, "devenv_base_image_name is not given"),
        ("base_image_build", {"devenv_base_image_name": "tools"}, "is the node image itself"),
        (
            "base_image_build",
            {"devenv_base_image_name": "tools", "devenv_base_image_files": {"/opt/note": "/there/is/none"}},
            "/there/is/none is not a file",
        ),
        ("base_image_remove", {}, "devenv_base_image_name is not given"),
        ("base_image_remove", {"devenv_base_image_name": "none"}, "base image none does not exist"),
        ("snapshot", {"devenv_name": "lab"}, "devenv_snapshot is not given"),
        ("image_load", {"devenv_name": "lab"}, "devenv_images is not given"),
        ("replace", {"devenv_name": "lab"}, "devenv_replace is not given"),
        ("node_list", {}, "devenv_name is not given"),
        ("node_add", {"devenv_name": "none"}, "environment none does not exist"),
        ("node_add", {"devenv_name": "lab", "profile": "aio"}, "leave out profile"),
        ("node_add", {"devenv_name": "lab", "devenv_add": ["worker-1"]}, "a node worker-1 already exists"),
        ("node_add", {"devenv_name": "lab", "devenv_add": ["worker-9"]}, "worker-2"),
        ("node_add", {"devenv_name": "lab", "devenv_add_keys": {"memory": "lots"}}, "memory"),
        ("node_remove", {"devenv_name": "lab"}, "devenv_remove is not given"),
        (
            "node_remove",
            {"devenv_name": "lab", "devenv_remove": ["worker-7"]},
            "no node is named worker-7; the nodes are",
        ),
        ("node_remove", {"devenv_name": "lab", "devenv_remove": ["master-0"]}, "last control plane node"),
    ],
)
def test_a_playbook_with_invalid_input_fails_before_it_changes_anything(
    lab: Lab, playbook: str, extra: dict[str, Any], message: str
) -> None:
    before = (lab.folder / "profile.yml").read_bytes()
    code, text = lab.run(playbook, **extra)
    assert code == 2, text
    assert message in text
    assert (lab.folder / "profile.yml").read_bytes() == before
    assert lock.read(lab.folder) is None
    assert not (lab.path / "home" / "environments" / "none").exists()


def grow(bundle: Bundle, temp: Path) -> None:
    """Add a program of the optional part ``storage``."""
    (temp / "bin").mkdir(parents=True)
    (temp / "bin" / "provisioner").write_bytes(b"provisioner")
    file = replace(manifest.describe(temp, "bin/provisioner", "1", "a test"), part="storage")
    store.grow(bundle, temp, replace(bundle.manifest, files=(file,), images=()))


@pytest.mark.parametrize("brings", [[], ["container_runtime"]])
def test_check_mode_of_add_ons_needs_no_bundle(lab: Lab, tmp_path: Path, brings: list[str]) -> None:
    role = {"name": "devenv.lab.cluster_addons"}
    task = {"name": "Add-ons", "ansible.builtin.import_role": role, "vars": {"cluster_addons_storage": True}}
    traits = {"devenv_engine_traits": {"brings": brings}}
    path = tmp_path / "addons.yml"
    path.write_text(
        yaml.safe_dump([{"name": "All", "hosts": "localhost", "gather_facts": False, "vars": traits, "tasks": [task]}])
    )
    code, text = lab.run(path, "--check", devenv_name="lab")
    assert code == 0, text
    assert "StorageClass local-path" in text
    assert ("Find the add-ons in the bundle" in text) is not bool(brings)


def test_an_exported_bundle_can_be_imported_into_another_cache(lab: Lab, tmp_path: Path) -> None:
    bundle = bundles.create(lab.cache)
    lab.result("bundle_verify")
    archive = tmp_path / "bundle.tar.gz"
    assert lab.result("bundle_export", devenv_archive=str(archive))["archive"] == str(archive)
    assert lab.result("bundle_export", devenv_archive=str(archive))["changed"] is False
    other = Lab(tmp_path / "other")
    assert other.result("bundle_import", devenv_archive=str(archive))["changed"] is True
    assert other.result("bundle_import", devenv_archive=str(archive))["changed"] is False
    (taken,) = store.list_bundles(other.cache)
    assert taken.digest == bundle.digest
    grow(bundle, tmp_path / "part")
    lab.result("bundle_export", devenv_archive=str(archive))
    assert other.result("bundle_import", "--check", devenv_archive=str(archive))["changed"] is True
    assert other.result("bundle_import", devenv_archive=str(archive))["changed"] is True
    assert other.result("bundle_import", "--check", devenv_archive=str(archive))["changed"] is False
    (taken.path / "bin" / "helm").write_bytes(b"HELM")
    code, text = other.run("bundle_verify")
    assert code == 2
    assert "bin/helm" in text


def test_snapshots_are_listed_and_removed(lab: Lab) -> None:
    folder = lab.path / "home" / "snapshots" / "with-data"
    folder.mkdir(parents=True)
    (folder / "etcd-main.db").write_bytes(b"data")
    row = {"sha256": hashlib.sha256(b"data").hexdigest(), "size": 4}
    content = {
        "format": 1, "made": "2026-11-21T15:00:00+00:00", "environment": "first", "network": {},
        "profile": resolve("aio"), "clusters": {}, "nodes": {"master-0": {"images": []}},
        "files": {"etcd-main.db": row},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(content))
    (listed,) = lab.result("snapshot_list")["__snapshot_list.snapshots"]
    assert (listed["name"], listed["environment"], listed["state"]) == ("with-data", "first", "whole")
    assert lab.result("snapshot_remove", devenv_snapshot="with-data")["changed"] is True
    assert not folder.exists()
    assert lab.result("snapshot_list")["__snapshot_list.snapshots"] == []


def test_node_list_returns_one_row_per_node(lab: Lab) -> None:
    rows = {row["name"]: row for row in lab.result("node_list", devenv_name="lab")["__node_list.nodes"]}
    assert list(rows) == ["master-0", "worker-0", "worker-1"]
    assert rows["worker-1"] == {
        "name": "worker-1", "group": "workers", "cluster": "main", "container": "absent", "kubernetes": "absent",
        "addresses": ["10.213.9.12"], "leaving": False,
    }  # fmt: skip


def first_play(playbook: str, place: Path) -> Path:
    """Copy the first play of a playbook, which needs no machines; append a task that prints the nodes."""
    play = yaml.safe_load((PLAYBOOKS / f"{playbook}.yml").read_text())[0]
    play["tasks"].append({"name": "Show the nodes", "ansible.builtin.debug": {"var": "groups['nodes'] | sort"}})
    text = yaml.safe_dump([play])
    path = place / f"{playbook}.yml"
    path.write_text(re.sub(r"(?<= )tasks/", f"{PLAYBOOKS}/tasks/", text))
    return path


def test_node_add_and_node_remove_change_the_profile_and_the_inventory(lab: Lab, tmp_path: Path) -> None:
    add, remove = first_play("node_add", tmp_path), first_play("node_remove", tmp_path)
    nodes = "groups['nodes'] | sort"
    keys = tmp_path / "keys.yml"
    keys.write_text("devenv_add_keys: {memory: 4GiB, cpus: 3, labels.pipe: 'true'}\n")
    added = lab.result(add, "-e", f"@{keys}", devenv_name="lab")
    assert added[nodes] == ["master-0", "worker-0", "worker-1", "worker-2"]
    resolved = state.read_profile(lab.folder)
    assert resolved is not None
    node = resolved["nodes"][-1]
    assert (node["memory"], node["cpus"], node["labels"]["pipe"]) == (4 << 30, 3, "true")
    removed = lab.result(remove, devenv_name="lab", devenv_remove=["worker-0", "worker-2"])
    # A node that leaves stays in the inventory until it has left.
    assert "worker-1" in removed[nodes]
    assert lab.nodes() == ["master-0", "worker-1"]


def test_kubeconfigs_of_all_clusters_are_merged_and_removed(lab: Lab) -> None:
    for cluster in ("red", "blue"):
        name = f"devenv-lab-{cluster}"
        entries = {kind: [{"name": name, kind.removesuffix("s"): {}}] for kind in ("clusters", "users", "contexts")}
        path = lab.folder / "clusters" / cluster / "kubeconfig"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(entries))
    own = lab.path / ".kube" / "config"
    run = {"HOME": str(lab.path), "KUBECONFIG": ""}

    def contexts() -> tuple[list[str], str]:
        document = yaml.safe_load(own.read_text())
        return [entry["name"] for entry in document["contexts"]], document.get("current-context", "")

    assert lab.result("kubeconfig", "--check", variables=run, devenv_name="lab")["changed"] is True
    assert not own.exists()
    lab.result("kubeconfig", variables=run, devenv_name="lab", devenv_clusters="blue")
    assert contexts() == (["devenv-lab-blue"], "")
    assert lab.result("kubeconfig", variables=run, devenv_name="lab")["files"] == [str(own)]
    assert contexts() == (["devenv-lab-blue", "devenv-lab-red"], "")
    code, text = lab.run("kubeconfig", variables=run, devenv_name="lab", devenv_switch_context=True)
    assert (code != 0, "several clusters exist: blue, red" in text) == (True, True)
    lab.result("kubeconfig", variables=run, devenv_name="lab", devenv_switch_context=True, devenv_clusters=["red"])
    assert contexts()[1] == "devenv-lab-red"
    lab.result("kubeconfig", variables=run, devenv_name="lab", devenv_unmerge=True)
    assert not own.parent.exists()
