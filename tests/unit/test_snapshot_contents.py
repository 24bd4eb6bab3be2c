"""Snapshots: folders of a node with data of apps, the containers that write to them, and saving them."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import contents, save
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.contents import ClusterContents
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target


def volume(name: str, path: str, nodes: Sequence[str] = (), kind: str = "hostPath") -> dict[str, Any]:
    rules = [{"key": "kubernetes.io/hostname", "operator": "In", "values": list(nodes)}]
    affinity = {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": rules}]}}} if nodes else {}
    return {"metadata": {"name": name}, "spec": {kind: {"path": path}, **affinity}}


def running(name: str, node: str, *mounts: dict[str, Any], namespace: str = "shop") -> dict[str, Any]:
    state = {"containerStatuses": [{"containerID": f"containerd://{name}", "state": {"running": {}}}]}
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeName": node, "volumes": list(mounts)},
        "status": state,
    }


def host(path: str, kind: str = "") -> dict[str, Any]:
    return {"hostPath": {"path": path, "type": kind}}


NODES = ["master-0", "worker-0"]


@pytest.mark.parametrize(
    ("pods", "volumes", "expected"),
    [
        ([], [], {"master-0": [], "worker-0": []}),
        ([], [volume("a", "/srv/a")], {"master-0": ["/srv/a"], "worker-0": ["/srv/a"]}),
        ([], [volume("a", "/srv/a", ["worker-0"], "local")], {"master-0": [], "worker-0": ["/srv/a"]}),
        ([running("p", "worker-0", host("/data/x/"))], [], {"master-0": [], "worker-0": ["/data/x"]}),
        # A folder inside another one, and one whose name only begins alike.
        (
            [running("p", "master-0", host("/data/x/y"), host("/data/x"), host("/data/xy"))],
            [],
            {"master-0": ["/data/x", "/data/xy"], "worker-0": []},
        ),
        # Volumes of the StorageClass are next to files of devenv, which are not data.
        (
            [running("p", "master-0", host("/var/lib/devenv"), host("/var/lib/devenv/volumes-not"))],
            [volume("a", "/var/lib/devenv/volumes/pvc-1_shop_data", ["worker-0"])],
            {"master-0": [], "worker-0": ["/var/lib/devenv/volumes/pvc-1_shop_data"]},
        ),
        # Parts of the machine, sockets, the system's own pods.
        (
            [
                running("p", "master-0", host("/"), host("/var/log"), host("/etc/ssl"), host("/sys"), host("/var/lib")),
                running("q", "master-0", host("/srv/socket", "Socket")),
                running("r", "master-0", host("/srv/system"), namespace="kube-system"),
                running("s", "elsewhere", host("/srv/s")),
            ],
            [],
            {"master-0": [], "worker-0": []},
        ),
    ],
)
def test_folders_with_data_of_apps(pods: list[Any], volumes: list[Any], expected: dict[str, list[str]]) -> None:
    assert contents.data_paths(ClusterContents(pods, volumes, []), NODES) == expected


def test_objects_that_are_about_to_be_removed_are_left_out() -> None:
    def claimed(name: str, namespace: str, phase: str, policy: str = "Delete") -> dict[str, Any]:
        item = volume(name, f"/srv/{name}")
        item["spec"] |= {
            "claimRef": {"namespace": namespace, "name": "x"}, "persistentVolumeReclaimPolicy": policy
        }  # fmt: skip
        return item | {"status": {"phase": phase}}

    volumes = [
        claimed("kept", "shop", "Bound"),
        claimed("of-a-kept-one", "shop", "Released", "Retain"),
        claimed("deleted", "shop", "Released"),
        claimed("of-a-probe", "devenv-validate-0cd33c", "Bound"),
        volume("of-nobody", "/srv/of-nobody"),
    ]
    pods = [running("p", "master-0", host("/srv/p")), running("q", "master-0", namespace="devenv-validate-0cd33c")]
    claims = [{"metadata": {"name": "x", "namespace": name}} for name in ("shop", "devenv-validate-0cd33c")]
    lasting = contents.lasting(pods, volumes, claims)
    assert [item["metadata"]["name"] for item in lasting.volumes] == ["kept", "of-a-kept-one", "of-nobody"]
    assert [item["metadata"]["name"] for item in lasting.pods] == ["p"]
    assert [item["metadata"]["namespace"] for item in lasting.claims] == ["shop"]
    assert lasting.unready == ["shop/p"]


def test_a_folder_that_was_deleted_since_the_inspection_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "present").mkdir()
    (tmp_path / "present" / "file").write_text("data")
    source = save.Source("e", {}, {}, [], {"node": Target("node", ("bash", "-c"))})
    for paths, names in (
        (["present", "gone"], [f"{tmp_path}/present", f"{tmp_path}/present/file"]),
        (["gone"], []),
    ):
        nodes = {"node": save.NodeContents(paths=[f"{tmp_path}/{name}" for name in paths])}
        scratch = tmp_path / f"of-{'-'.join(paths)}"
        scratch.mkdir()
        save._save_volumes(scratch, source, nodes, lambda text: None)
        with tarfile.open(scratch / "volumes-node.tar") as archive:
            assert sorted(f"/{name}" for name in archive.getnames()) == names


def test_only_containers_that_may_write_to_the_data_are_paused() -> None:
    claim = {"metadata": {"name": "data", "namespace": "shop"}, "spec": {"volumeName": "a"}}
    pods = [
        running("by-claim", "worker-0", {"persistentVolumeClaim": {"claimName": "data"}}),
        running("below", "worker-0", host("/srv/a/below")),
        running("similar-name", "worker-0", host("/srv/ab"), {"emptyDir": {}}),
        running(
            "claim-of-another-namespace", "worker-0", {"persistentVolumeClaim": {"claimName": "data"}}, namespace="x"
        ),
    ]
    cluster = ClusterContents(pods, [volume("a", "/srv/a", ["worker-0"])], [claim])
    assert contents.writers(cluster, {"master-0": [], "worker-0": ["/srv/a"]}) == {
        "master-0": [],
        "worker-0": ["by-claim", "below"],
    }


def test_extra_images_are_those_that_are_not_in_the_bundle() -> None:
    bundled = {"registry.k8s.io/pause:3.10": "sha256:a", "devenv.lab/probe:1": "sha256:b"}
    images = {
        "registry.k8s.io/pause:3.10": "sha256:a",
        "devenv.lab/probe:1": "sha256:other",
        "example.test/shop:1": "sha256:c",
        "example.test/shop@sha256:c": "sha256:c",
        "sha256:d": "sha256:d",
    }
    assert save.extra_images(images, bundled) == {
        "devenv.lab/probe:1": "sha256:other",
        "example.test/shop:1": "sha256:c",
    }


def test_a_snapshot_of_one_cluster_is_of_an_environment_with_this_cluster_alone() -> None:
    profile = resolve(
        "sno",
        overrides={
            "clusters": {"red": {}, "blue": {}, "main": None},
            "nodes.master-0": {"cluster": "red"},
            "nodes.master-1": {"cluster": "blue"},
            "nodes.worker-0": {"cluster": "blue"},
            "nodes.worker-1": {"cluster": None},
        },
    )
    network = network_plan.make(profile, {"ipv4": "10.213.9.0/24"})
    nodes = tuple(NodeSpec(name, "", "blue") for name in ("master-1", "worker-0"))
    blue = Cluster("blue", Path("kubeconfig"), "kubeadm", "1.36.3", ("ipv4",), nodes)
    source = save.only(save.Source("lab", profile, network, [blue], {}))
    assert list(source.resolved["clusters"]) == ["blue"]
    assert [node["name"] for node in source.resolved["nodes"]] == ["master-1", "worker-0"]
    assert list(source.network["nodes"]) == ["master-1", "worker-0"]
    assert list(source.network["clusters"]) == ["blue"]
    # An environment can be created from it, and its nodes keep their places.
    assert amend.amend(source.resolved, {}) == source.resolved
    again = network_plan.make(source.resolved, {"ipv4": "10.213.9.0/24"}, source.network)
    assert again["nodes"] == source.network["nodes"]
