"""The tarball on the controller: its digest, and which of its node profiles each node gets."""

from __future__ import annotations

import copy
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.engines.gravity import tarball as gravity
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from doubles.gravity import tarball

NODES = [
    {"name": "master-0", "group": "control_plane"},
    {"name": "master-1", "group": "control_plane"},
    {"name": "worker-0", "group": "workers"},
]


def application(**changes: Any) -> gravity.Application:
    return gravity.parse(json.dumps({**tarball.manifest(), **changes}))


def refused(flavor: str = "", nodes: list[dict[str, str]] = NODES, **changes: Any) -> DevenvError:
    with pytest.raises(DevenvError) as caught:
        gravity.plan(application(**changes), nodes, flavor)
    return caught.value


def test_each_node_gets_its_node_profile() -> None:
    plan = gravity.plan(application(), NODES)
    assert plan == gravity.Plan("1.0.0", "one", {"master-0": "aio", "master-1": "aio", "worker-0": "pipe"})


def test_a_node_can_set_its_type() -> None:
    nodes = [{**NODES[2], "name": "worker-1", "node_type": "only-once"}]
    assert gravity.plan(application(), nodes).types == {"worker-1": "only-once"}


def test_the_first_single_node_flavor_replaces_a_larger_default() -> None:
    flavors = copy.deepcopy(tarball.manifest()["installer"])
    flavors["flavors"]["default"] = "three"
    assert gravity.plan(application(installer=flavors), NODES).flavor == "one"


def test_a_flavor_of_several_nodes_is_refused() -> None:
    """Such an installation waits for all its nodes, but masters join one by one."""
    assert 'flavor "three" installs 3 nodes at once' in str(refused("three"))


def test_unknown_flavors_and_types_are_rejected() -> None:
    assert 'the manifest has no flavor "big"; it has one, three' in str(refused("big"))
    error = refused(nodes=[{**NODES[0], "node_type": "db"}])
    assert "master-0: the manifest has no node profile db; it has aio, pipe, only-once" in str(error)
    assert error.exit_code == 5


def test_a_type_of_another_role_is_rejected() -> None:
    error = refused(nodes=[{**NODES[0], "node_type": "pipe"}])
    assert "master-0: the node profile pipe is for a node, not a master" in str(error)


def test_a_type_that_cannot_be_added_is_rejected() -> None:
    assert refused(nodes=[NODES[0], {**NODES[2], "node_type": "only-once"}]).reason.id == "gravity_fixed"


def test_labels_decide_if_there_is_no_service_role() -> None:
    rows = [{"name": "a", "labels": {"node-role.kubernetes.io/node": "true"}}, {"name": "b"}]
    assert application(nodeProfiles=rows).roles == {"a": "node", "b": ""}


@pytest.mark.parametrize("text", ["", "[]", "kind: Cluster", "{", "metadata: {name: x, version: 1}"])
def test_a_file_that_is_not_a_manifest_is_rejected(text: str) -> None:
    with pytest.raises(DevenvError, match="is not a manifest of a cluster"):
        gravity.parse(text)


def test_a_tarball_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = tarball.make(tmp_path / "lab.tar")
    folder = gravity.unpacked(tmp_path / "lab.tar", digest, tmp_path / "cache")
    assert gravity.application(folder).name == "lab"
    assert (folder / "gravity").stat().st_mode & 0o111
    monkeypatch.setattr(hashlib, "sha256", lambda *words: pytest.fail("read again"))
    assert gravity.unpacked(tmp_path / "lab.tar", digest, tmp_path / "cache") == folder


def test_a_tarball_with_another_digest_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "lab.tar"
    digest = tarball.make(path)
    gravity.unpacked(path, digest, tmp_path / "cache")
    with path.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(DevenvError, match="not that of the profile") as caught:
        gravity.unpacked(path, digest, tmp_path / "cache")
    assert caught.value.exit_code == 2
    with pytest.raises(DevenvError, match="No such file"):
        gravity.unpacked(tmp_path / "absent.tar", digest, tmp_path / "cache")


def test_another_tarball_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "gravity")
    with pytest.raises(DevenvError, match=r"is not the tarball of a cluster: it lacks app\.yaml"):
        gravity.unpacked(path, hashlib.sha256(path.read_bytes()).hexdigest(), tmp_path / "cache")
    path.write_text("text")
    with pytest.raises(DevenvError):
        gravity.unpacked(path, hashlib.sha256(b"text").hexdigest(), tmp_path / "cache")


# --- profiles --------------------------------------------------------------------------------------------------------

SHA = "0" * 64
GRAVITY = {
    "kubernetes.engine": "gravity",
    "kubernetes.gravity.tarball": "/srv/lab.tar",
    "kubernetes.gravity.sha256": SHA,
}


@pytest.mark.parametrize("name", ["aio", "hq-ha", "master-2pipe", "ha", "sno", "compact"])
def test_profiles_that_gravity_supports_are_accepted(name: str) -> None:
    resolved = resolve(name, overrides=GRAVITY)
    engines.require(resolved)
    assert resolved["kubernetes"]["gravity"]["tarball"] == "/srv/lab.tar"
    assert {cluster["endpoint"]["kind"] for cluster in resolved["clusters"].values()} == {"node"}


@pytest.mark.parametrize(
    ("name", "more", "text"),
    [
        ("tna", {}, "nodes.arbiter-0: the engine gravity does not support arbiters"),
        ("ha-dualstack-static", {}, "stack: the engine gravity does not support ipv6"),
        ("sno-ipv6-static", {}, "stack: the engine gravity does not support ipv6"),
        ("5control", {}, "the engine gravity supports at most 3 masters, not 5"),
        (
            "ha",
            {"clusters.main.endpoint.kind": "virtual"},
            "endpoint.kind: the engine gravity does not support virtual",
        ),
        ("aio", {"kubernetes.gravity.tarball": ""}, "kubernetes.gravity.tarball: the engine gravity requires it"),
        ("aio", {"kubernetes.gravity.sha256": ""}, "kubernetes.gravity.sha256: the engine gravity requires it"),
        (
            "aio",
            {"kubernetes.gravity.prepared": True, "kubernetes.gravity.script": "/srv/install.sh"},
            "prepared and script are mutually exclusive",
        ),
    ],
)
def test_unsupported_profiles_are_rejected(name: str, more: dict[str, Any], text: str) -> None:
    resolved = resolve(name, overrides={**GRAVITY, **more})
    with pytest.raises(DevenvError, match=text) as caught:
        engines.require(resolved)
    assert caught.value.exit_code == 2


def test_a_prepared_image_needs_no_tarball() -> None:
    overrides = {"kubernetes.engine": "gravity", "kubernetes.gravity.prepared": True}
    engines.require(resolve("aio", overrides=overrides))


def test_another_engine_has_no_such_settings() -> None:
    assert "gravity" not in resolve("aio")["kubernetes"]


@pytest.mark.parametrize("operation", ["snapshot", "upgrade", "certificates"])
def test_unsupported_operations_are_rejected(operation: str) -> None:
    with pytest.raises(DevenvError, match=f"{operation}: not supported by the engine gravity; "):
        engines.require_operation("gravity", operation)
    engines.require_operation("kubeadm", operation)


def test_a_node_type_stays_with_its_node() -> None:
    resolved = resolve("master-2pipe", overrides={**GRAVITY, "nodes.worker-0.node_type": "pipe"})
    types = {node["name"]: node.get("node_type") for node in resolved["nodes"]}
    assert types == {"master-0": None, "worker-0": "pipe", "worker-1": None}
