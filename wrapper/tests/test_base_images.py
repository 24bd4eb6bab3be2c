"""Base images: the command, and what their names mean in a test's demand. Runs of playbooks are replaced."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve, resolve_document
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base_images
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Provider
from support import demands
from support.runs import Request

from devenv import testing
from devenv.cli import options
from devenv.environment import Environment
from devenv.testing import demand, demand_parse
from devenv.testing.allocators.devenv import Devenv as Allocator

Devenv = Callable[..., tuple[int, str, str]]


class NoImages(Provider):
    name = "podman"
    failure = ""


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    demands.forget_registered(monkeypatch)
    monkeypatch.setattr(base_images, "provider", NoImages)


@pytest.fixture
def built(own_home: Path) -> Callable[..., str]:
    """Record a base image with packages; return its digest."""

    def build(name: str, *packages: str) -> str:
        with base_images.staged(own_home, name, packages or ("tree",), {}, None) as image:
            return image.digest

    return build


def arguments_of(hosts: Mapping[str, Any]) -> dict[str, Any]:
    return {"hardware": hosts, "grouping": {"cluster1": {"hosts": list(hosts)}}}


def parsed(hosts: Mapping[str, Any], **more: Any) -> demand.Demand:
    return demand_parse.parse(arguments_of(hosts), **more)


def problems_of(hosts: Mapping[str, Any], **more: Any) -> list[str]:
    return demands.problems_of(arguments_of(hosts), **more)


def nodes_of(requested: demand.Demand) -> dict[str, Any]:
    nodes: dict[str, Any] = demand.profile_document(requested)["nodes"]
    return nodes


# --- the command -----------------------------------------------------------------------------------------------------


def test_build_passes_packages_and_files(devenv: Devenv, requests: list[Request], tmp_path: Path) -> None:
    (tmp_path / "a:b").write_text("")
    words = ("--package", "tree", "--package", "jq", "--file", f"{tmp_path}/a:b:/opt/note")
    code, out, err = devenv("base-image", "build", "tools", *words)
    assert (code, out) == (0, "changed=3\n"), err
    assert "built tools" in err
    (request,) = requests
    assert request.playbook == "base_image_build"
    assert request.variables == {
        "devenv_base_image_name": "tools",
        "devenv_base_image_packages": ["tree", "jq"],
        "devenv_base_image_files": {"/opt/note": f"{tmp_path}/a:b"},
        "devenv_base_image_rootfs": "",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tools", "--file", "./note"), "is not FILE:PATH"),
        (("tools", "--file", "./gone:/opt/note"), "gone is not a file"),
        (("tools", "--rootfs", "gone.tar"), "gone.tar is not a file"),
        (("tools", "--package", "Tree"), "is not the name of a Debian package"),
        (("a/b", "--package", "tree"), "the name may have"),
        (("tools",), "is the node image itself"),
    ],
)
def test_build_refuses_before_it_runs(
    devenv: Devenv, requests: list[Request], words: tuple[str, ...], message: str
) -> None:
    code, _, err = devenv("base-image", "build", *words)
    assert (code, requests) == (2, [])
    assert message in err
    end = json.loads(devenv("base-image", "build", *words, "--json")[1].splitlines()[-1])
    assert (end["type"], end["exit"]) == ("end", 2)


def test_list_and_rm(devenv: Devenv, built: Callable[..., str], own_home: Path) -> None:
    digest = built("tools", "tree")
    profile = resolve("aio", overrides={"nodes.master-0.base_image": "tools"})
    state.write_profile(own_home / "environments" / "one", profile)
    (row,) = json.loads(devenv("base-image", "list", "--json")[1])
    assert {key: row[key] for key in ("name", "digest", "packages", "files", "rootfs", "images", "environments")} == {
        "name": "tools", "digest": digest, "packages": ["tree"], "files": [], "rootfs": False, "images": [],
        "environments": ["one"],
    }  # fmt: skip
    assert devenv("base-image", "list")[1].splitlines()[1].split()[:4] == ["tools", digest, "not", "built"]
    code, _, err = devenv("base-image", "rm", "tools")
    assert code == 2
    assert "base image tools is used by one" in err
    state.write_profile(own_home / "environments" / "one", resolve("aio"))
    assert devenv("base-image", "rm", "tools")[0] == 0
    code, _, err = devenv("base-image", "rm", "tools")
    assert code == 2
    assert "base image tools does not exist" in err


def test_names_are_completed(built: Callable[..., str]) -> None:
    assert options.complete_base_image("t") == []
    built("tools")
    built("other")
    assert options.complete_base_image("t") == ["tools"]


# --- a demand --------------------------------------------------------------------------------------------------------


def test_one_cluster_mixes_images(built: Callable[..., str]) -> None:
    digest = built("tools")
    requested = parsed({"host1": {"base_image": "k8s_base"}, "host2": {"base_image": "tools"}})
    nodes = nodes_of(requested)
    assert [node.get("base_image") for node in nodes.values()] == [None, "tools"]
    assert [host.image_digest for host in requested.hosts] == ["", digest]
    assert [cluster.installer for cluster in requested.clusters] == ["k8s"]
    # Other content needs another environment.
    built("tools", "jq")
    assert parsed({"host1": {"base_image": "k8s_base"}, "host2": {"base_image": "tools"}}).digest != requested.digest


def test_an_unknown_image_is_refused_by_name(built: Callable[..., str]) -> None:
    built("tools")
    (problem,) = problems_of({"host1": {"base_image": "tool"}})
    assert problem.startswith('hardware.host1.base_image: "tool" is unknown; known: automation_infra_1.0, ')
    assert ", tools, ubuntu_clean;" in problem
    assert problem.endswith("build it with devenv base-image build tool")


def test_a_built_image_gives_a_known_name_its_content(built: Callable[..., str]) -> None:
    assert nodes_of(parsed({"a": {"base_image": "gravity_base"}}))["master-0"].get("base_image") is None
    built("gravity_base")
    requested = parsed({"a": {"base_image": "gravity_base"}})
    assert nodes_of(requested)["master-0"]["base_image"] == "gravity_base"
    # What follows from the name stays.
    assert (requested.engine, nodes_of(requested)["master-0"]["memory"]) == ("gravity", "4GiB")


def test_a_registered_image_names_another(built: Callable[..., str]) -> None:
    image = testing.BaseImage("Debian with drivers", {"base_image": "drivers"}, "devops_k8s")
    testing.register_base_image("camera_base", image)
    (problem,) = problems_of({"a": {"base_image": "camera_base"}})
    assert problem.endswith("needs an image that does not exist: devenv base-image build drivers")
    built("drivers")
    built("camera_base", "jq")
    requested = parsed({"a": {"base_image": "camera_base"}})
    assert nodes_of(requested)["master-0"]["base_image"] == "drivers"
    assert [cluster.installer for cluster in requested.clusters] == ["devops_k8s"]


def test_an_image_of_an_allocator_alone(built: Callable[..., str]) -> None:
    testing.register_base_image("golden", testing.BaseImage("in the lab only", local=False))
    (problem,) = problems_of({"a": {"base_image": "golden"}})
    assert problem.startswith("hardware.a.base_image: golden needs an allocator that has it")
    assert parsed({"a": {"base_image": "golden"}}, remote=True).hosts[0].remote == {"base_image": "golden"}
    built("golden")
    assert nodes_of(parsed({"a": {"base_image": "golden"}}))["master-0"]["base_image"] == "golden"


def test_machines_of_an_allocator_have_no_keys_that_only_new_nodes_can_have(built: Callable[..., str]) -> None:
    testing.register_base_image("own", testing.BaseImage("", {"base_image": "drivers", "memory": "8GiB"}))
    keys = {"base_image": "own", "cpus": 4, "labels": {"a": "b"}}
    requested = parsed({"a": keys}, remote=True, install=True)
    assert requested.hosts[0].remote == keys
    document = demand.profile_document(requested, {"a": {"addresses": ["192.0.2.1"], "user": "root"}})
    (node,) = resolve_document(document, "test")["nodes"]
    assert node["labels"] == {"a": "b"}
    assert not {"cpus", "memory", "base_image"} & set(document["nodes"]["master-0"])


# --- snapshots -------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(own_home: Path) -> None:
    """A snapshot of aio, named ready."""
    folder = own_home / "snapshots" / "ready"
    folder.mkdir(parents=True)
    (folder / "etcd-main.db").write_bytes(b"data")
    row = {"sha256": hashlib.sha256(b"data").hexdigest(), "size": 4}
    profile = resolve("aio", overrides={"stack": "dualstack", "network.pods.ipv4": "10.99.0.0/16"})
    manifest = {
        "format": 1, "made": "2026-11-21T15:00:00+00:00", "environment": "first", "network": {}, "profile": profile,
        "clusters": {}, "nodes": {"master-0": {"images": []}}, "files": {"etcd-main.db": row},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def _prepared() -> None:
    testing.register_base_image("ready_infra", testing.BaseImage("a prepared cluster", snapshot="ready"))


@pytest.mark.usefixtures("saved", "_prepared")
def test_an_image_can_be_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    requested = parsed({"a": {"base_image": "ready_infra"}})
    document = demand.profile_document(requested)
    assert (requested.snapshot, document["stack"], document["topology"]) == ("ready", "dualstack", "aio")
    assert document["network"]["pods"]["ipv4"] == "10.99.0.0/16"
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(Environment, "up", lambda **keys: calls.append(keys))
    for each in (requested, parsed({"a": {}})):
        Allocator().up("t1", each, timeout=None, report=lambda text: None)
    assert [call["snapshot"] for call in calls] == ["ready", None]


@pytest.mark.usefixtures("_prepared")
def test_a_snapshot_that_does_not_exist_is_refused() -> None:
    (problem,) = problems_of({"a": {"base_image": "ready_infra"}})
    assert problem.endswith("needs a snapshot that does not exist: devenv snapshot save ready")
    assert parsed({"a": {"base_image": "ready_infra"}}, remote=True).snapshot == ""


@pytest.mark.usefixtures("saved", "_prepared")
def test_a_snapshot_has_its_own_nodes() -> None:
    (problem,) = problems_of({"a": {"base_image": "ready_infra"}, "b": {}})
    assert problem == "snapshot ready: hardware.b: not in the snapshot"


@pytest.mark.usefixtures("saved", "_prepared")
def test_an_environment_starts_from_one_snapshot(own_home: Path) -> None:
    shutil.copytree(own_home / "snapshots" / "ready", own_home / "snapshots" / "other")
    testing.register_base_image("other_infra", testing.BaseImage(snapshot="other"))
    (problem,) = problems_of({"a": {"base_image": "ready_infra"}, "b": {"base_image": "other_infra"}})
    assert problem == "hardware: an environment starts from one snapshot, but these are needed: other, ready"
