"""Snapshots: objects as they stand in etcd, what is data of an app, what keeps a profile from a snapshot."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import cluster as kubeadm
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import restore as kubeadm_restore
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import etcd as snapshot_etcd
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import snapshot
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.etcd import delimited

# --- objects in etcd ------------------------------------------------------------------------------------------------


def stored(*parts: bytes) -> bytes:
    """An object in Kubernetes' envelope: type, object, and a field behind it that must survive."""
    envelope = delimited(1, delimited(1, b"v1") + delimited(2, b"Kind")) + delimited(2, b"".join(parts))
    return snapshot_etcd.MAGIC + envelope + delimited(4, b"application/vnd.kubernetes.protobuf")


def status(value: bytes) -> dict[int, bytes]:
    _envelope, parts = snapshot_etcd.opened(value)
    found = [field.value for field in parts if field.number == 3]
    assert len(found) == 1
    return {one.number: one.value for one in snapshot_etcd.fields(found[0])}


def pod(phase: bytes, metadata: bytes = b"") -> bytes:
    state = delimited(1, phase) + delimited(2, b"Ready") + delimited(6, b"10.244.0.5") + delimited(9, b"Burstable")
    return stored(delimited(1, delimited(1, b"shop-0") + metadata), delimited(2, b"spec"), delimited(3, state))


@pytest.mark.parametrize("phase", [b"Running", b"Pending", b"Unknown"])
def test_a_pod_that_is_to_run_starts_as_if_it_never_had(phase: bytes) -> None:
    changed = snapshot_etcd.fresh_pod(pod(phase))
    assert changed is not None
    assert status(changed) == {1: b"Pending", 9: b"Burstable"}
    envelope, parts = snapshot_etcd.opened(changed)
    assert [field.number for field in envelope] == [1, 2, 4]
    assert [field.value for field in parts if field.number == 2] == [b"spec"]


@pytest.mark.parametrize("phase", [b"Succeeded", b"Failed"])
def test_a_pod_that_has_done_its_work_stays(phase: bytes) -> None:
    assert snapshot_etcd.fresh_pod(pod(phase)) == pod(phase)


def test_a_pod_that_mirrors_a_file_of_a_node_goes() -> None:
    annotation = delimited(12, delimited(1, b"kubernetes.io/config.mirror") + delimited(2, b"abc"))
    assert snapshot_etcd.fresh_pod(pod(b"Running", annotation)) is None


def test_a_node_keeps_its_size_and_nothing_else_of_its_status() -> None:
    state = delimited(1, b"cpu") + delimited(2, b"memory") + delimited(4, b"Ready") + delimited(5, b"10.213.0.10")
    value = stored(delimited(1, b"m"), delimited(2, b"podCIDRs"), delimited(3, state))
    changed = snapshot_etcd.fresh_node(value)
    assert status(changed) == {1: b"cpu", 2: b"memory"}
    assert [field.value for field in snapshot_etcd.opened(changed)[1]][:2] == [b"m", b"podCIDRs"]


def test_only_a_service_accounts_token_is_taken_out_of_a_secret() -> None:
    token = stored(delimited(1, b"m"), delimited(2, b"old token"), delimited(3, b"kubernetes.io/service-account-token"))
    changed = snapshot_etcd.fresh_secret(token)
    assert changed is not None
    assert b"old token" not in changed
    assert b"kubernetes.io/service-account-token" in changed
    # The words in its data make no token of a Secret.
    other = stored(delimited(1, b"m"), delimited(2, b"kubernetes.io/service-account-token"), delimited(3, b"Opaque"))
    assert snapshot_etcd.fresh_secret(other) is None


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b"k8s:enc:aescbc:v1:key1:xyz", b"k8s\x00\x0a\xff", b"k8s\x00\x12", b"k8s\x00", b"k8s\x00\x07"],
)
def test_what_is_no_object_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        snapshot_etcd.fresh_pod(value)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 300, 70000])
def test_fields_give_back_what_was_put_together(length: int) -> None:
    message = delimited(3, b"x" * length) + b"\x08\x96\x01" + b"\x11" + b"8" * 8 + b"\x1d" + b"4" * 4
    found = snapshot_etcd.fields(message)
    assert [field.number for field in found] == [3, 1, 2, 3]
    assert found[0].value == b"x" * length
    assert b"".join(field.raw for field in found) == message


class Stored:
    """Keys and values in the place of etcd."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        self.values = values

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.values if key.startswith(prefix)]

    def items(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return iter([(key, value) for key, value in self.values.items() if key.startswith(prefix)])


def test_what_belongs_to_the_old_cluster_goes_and_the_rest_stays() -> None:
    opaque = stored(delimited(1, b"m"), delimited(3, b"Opaque"))
    gone = [
        "/registry/leases/kube-system/kube-scheduler",
        "/registry/leases/shop/operator",
        "/registry/events/shop/x",
        "/registry/masterleases/10.213.0.10",
        "/registry/certificatesigningrequests/csr-1",
        "/registry/secrets/kube-system/bootstrap-token-abcdef",
        "/registry/secrets/kube-system/kubeadm-certs",
        "/registry/configmaps/kube-public/cluster-info",
        "/registry/configmaps/kube-system/extension-apiserver-authentication",
        "/registry/configmaps/kube-system/kube-proxy",
        "/registry/configmaps/shop/kube-root-ca.crt",
        "/registry/minions/worker-9",
        "/registry/endpointslices/shop/made",
        "/registry/clusterrolebindings/kubeadm:get-nodes",
        "/registry/clusterrolebindings/kubeadm:node-autoapprove-bootstrap",
        "/registry/roles/kube-public/kubeadm:bootstrap-signer-clusterinfo",
        "/registry/namespaces/devenv-validate-0a1b2c",
        "/registry/serviceaccounts/devenv-validate-0a1b2c/default",
        "/registry/pods/devenv-validate-0a1b2c/probe-0-master-0",
    ]
    kept = [
        "/registry/configmaps/shop/words",
        "/registry/configmaps/kube-system/kube-proxy-of-a-user",
        "/registry/configmaps/kube-system/coredns",
        "/registry/secrets/shop/password",
        "/registry/minions/master-0",
        "/registry/endpointslices/shop/by-hand",
        "/registry/statefulsets/shop/shop",
        # Without them neither the administrator nor kube-proxy may do anything until kubeadm has made them anew.
        "/registry/clusterrolebindings/kubeadm:cluster-admins",
        "/registry/clusterrolebindings/kubeadm:node-proxier",
    ]
    values = dict.fromkeys([*gone, *kept], opaque)
    values["/registry/endpointslices/shop/made"] = stored(b"", delimited(1, b"endpointslice-controller.k8s.io"))
    values["/registry/pods/shop/shop-0"] = pod(b"Running")
    values["/registry/pods/devenv-validate-0a1b2c/probe-0-master-0"] = pod(b"Running")
    values["/registry/minions/master-0"] = stored(delimited(1, b"m"))
    puts, deletions = snapshot_etcd.edits(Stored(values), ["master-0"])  # type: ignore[arg-type]
    assert set(gone) <= set(deletions)
    assert not set(kept) & set(deletions)
    assert "/registry/pods/shop/shop-0" in puts
    assert not set(puts) & set(deletions)


def test_encrypted_secrets_are_refused_by_name() -> None:
    values = {"/registry/secrets/shop/password": b"k8s:enc:aescbc:v1:key1:xyz"}
    with pytest.raises(DevenvError) as caught:
        snapshot_etcd.edits(Stored(values), [])  # type: ignore[arg-type]
    assert caught.value.reason.id == "snapshot_encrypted"


@pytest.mark.parametrize(
    ("address", "url"), [("10.213.0.10", "https://10.213.0.10:2380"), ("fd00::10", "https://[fd00::10]:2380")]
)
def test_peer_urls(address: str, url: str) -> None:
    assert snapshot_etcd.Member("master-0", address).url == url


# --- what is data ---------------------------------------------------------------------------------------------------


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
        # One inside another, and one that only begins alike.
        (
            [running("p", "master-0", host("/data/x/y"), host("/data/x"), host("/data/xy"))],
            [],
            {"master-0": ["/data/x", "/data/xy"], "worker-0": []},
        ),
        # Volumes of our StorageClass lie among our own files, which are none of theirs.
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
def test_folders_of_data(pods: list[Any], volumes: list[Any], expected: dict[str, list[str]]) -> None:
    assert snapshot.data_paths(snapshot.Looked(pods, volumes, [], []), NODES) == expected


def test_what_is_on_its_way_out_is_no_data() -> None:
    def claimed(name: str, namespace: str, phase: str, policy: str = "Delete") -> dict[str, Any]:
        one = volume(name, f"/srv/{name}")
        one["spec"] |= {
            "claimRef": {"namespace": namespace, "name": "x"}, "persistentVolumeReclaimPolicy": policy
        }  # fmt: skip
        return one | {"status": {"phase": phase}}

    volumes = [
        claimed("kept", "shop", "Bound"),
        claimed("of-a-kept-one", "shop", "Released", "Retain"),
        claimed("deleted", "shop", "Released"),
        claimed("of-a-probe", "devenv-validate-0cd33c", "Bound"),
        volume("of-nobody", "/srv/of-nobody"),
    ]
    pods = [running("p", "master-0", host("/srv/p")), running("q", "master-0", namespace="devenv-validate-0cd33c")]
    claims = [{"metadata": {"name": "x", "namespace": name}} for name in ("shop", "devenv-validate-0cd33c")]
    looked = snapshot.staying(pods, volumes, claims)
    assert [one["metadata"]["name"] for one in looked.volumes] == ["kept", "of-a-kept-one", "of-nobody"]
    assert [one["metadata"]["name"] for one in looked.pods] == ["p"]
    assert [one["metadata"]["namespace"] for one in looked.claims] == ["shop"]
    assert looked.unready == ["shop/p"]


def test_a_folder_that_was_deleted_since_the_look_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("data")
    source = snapshot.Source("e", {}, {}, [], {"node": snapshot.remote.Target("node", ("bash", "-c"))})
    for paths, names in (
        (["there", "gone"], [f"{tmp_path}/there", f"{tmp_path}/there/file"]),
        (["gone"], []),
    ):
        found = {"node": snapshot.Findings(paths=[f"{tmp_path}/{name}" for name in paths])}
        scratch = tmp_path / f"of-{'-'.join(paths)}"
        scratch.mkdir()
        snapshot._save_volumes(scratch, source, found, lambda text: None)
        with tarfile.open(scratch / "volumes-node.tar") as archive:
            assert sorted(f"/{name}" for name in archive.getnames()) == names


def test_only_containers_that_may_write_to_the_data_are_frozen() -> None:
    claim = {"metadata": {"name": "data", "namespace": "shop"}, "spec": {"volumeName": "a"}}
    pods = [
        running("by-claim", "worker-0", {"persistentVolumeClaim": {"claimName": "data"}}),
        running("below", "worker-0", host("/srv/a/below")),
        running("beside", "worker-0", host("/srv/ab"), {"emptyDir": {}}),
        running(
            "claim-of-another-namespace", "worker-0", {"persistentVolumeClaim": {"claimName": "data"}}, namespace="x"
        ),
    ]
    looked = snapshot.Looked(pods, [volume("a", "/srv/a", ["worker-0"])], [claim], [])
    assert snapshot.writers(looked, {"master-0": [], "worker-0": ["/srv/a"]}) == {
        "master-0": [],
        "worker-0": ["by-claim", "below"],
    }


def test_images_beyond_the_bundle() -> None:
    own = {"registry.k8s.io/pause:3.10": "sha256:a", "devenv.lab/probe:1": "sha256:b"}
    there = {
        "registry.k8s.io/pause:3.10": "sha256:a",
        "devenv.lab/probe:1": "sha256:other",
        "example.test/shop:1": "sha256:c",
        "example.test/shop@sha256:c": "sha256:c",
        "sha256:d": "sha256:d",
    }
    assert snapshot.extra_images(there, own) == {
        "devenv.lab/probe:1": "sha256:other",
        "example.test/shop:1": "sha256:c",
    }


# --- profiles -------------------------------------------------------------------------------------------------------


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
def test_what_keeps_a_profile_from_a_snapshot(changes: dict[str, Any], words: list[str]) -> None:
    found = " | ".join(snapshot.differences(resolved(), resolved(**changes)))
    assert bool(found) == bool(words)
    assert all(word in found for word in words)


# --- on disk --------------------------------------------------------------------------------------------------------


def saved(home: Path, name: str, **changes: Any) -> Path:
    folder = snapshot.base(home) / name
    folder.mkdir(parents=True)
    (folder / "etcd-main.db").write_bytes(b"data")
    manifest = {
        "format": snapshot.FORMAT,
        "made": "2026-11-21T15:00:00+00:00",
        "environment": "aio",
        "profile": resolved(),
        "network": {"subnets": {"ipv4": "10.213.9.0/24"}, "bridge": "podman3", "nodes": {}},
        "nodes": {
            node["name"]: {"images": [], "archive": "", "volumes": "", "paths": []} for node in resolved()["nodes"]
        },
        "clusters": {"main": {"etcd": "etcd-main.db"}},
        "files": {"etcd-main.db": snapshot._described(folder / "etcd-main.db")},
    }
    (folder / snapshot.MANIFEST).write_text(json.dumps({**manifest, **changes}))
    return folder


def refused(home: Path, folder: Path, wanted: str, profile: dict[str, Any] | None = None) -> str:
    with pytest.raises(DevenvError) as caught:
        snapshot.begin(home, folder, wanted, profile or resolved())
    assert snapshot.read_record(folder) is None or wanted == "other"
    return caught.value.reason.id


def test_listing_says_what_is_whole(tmp_path: Path) -> None:
    saved(tmp_path, "good")
    (saved(tmp_path, "cut") / "etcd-main.db").write_bytes(b"d")
    (saved(tmp_path, "mad") / snapshot.MANIFEST).write_text("{")
    rows = {row["name"]: row for row in snapshot.listing(tmp_path)}
    assert {name: row["state"] for name, row in rows.items()} == {"good": "whole", "cut": "broken", "mad": "broken"}
    assert (rows["good"]["bytes"], rows["good"]["kubernetes"]) == (4, "1.36.3")
    assert snapshot.listing(tmp_path / "nowhere") == []


def test_an_unknown_name_names_the_nearest(tmp_path: Path) -> None:
    saved(tmp_path, "with-data")
    with pytest.raises(DevenvError) as caught:
        snapshot.read(tmp_path, "with-dat")
    assert caught.value.reason.id == "snapshot_unknown"
    assert "with-data" in caught.value.advice


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-a", "a" * 50])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    for ask in (snapshot.read, snapshot.remove, snapshot.check_new):
        with pytest.raises(DevenvError) as caught:
            ask(tmp_path, name)
        assert caught.value.reason.id == "snapshot_name"


def test_beginning_finds_all_that_is_wrong_before_anything_is_noted(tmp_path: Path) -> None:
    home, folder = tmp_path, tmp_path / "environments" / "new"
    folder.mkdir(parents=True)
    saved(home, "good")
    assert refused(home, folder, "god") == "snapshot_unknown"
    assert refused(home, folder, "good", resolved(topology="ha")) == "snapshot_differs"
    (saved(home, "changed") / "etcd-main.db").write_bytes(b"atad")  # as long as before
    assert refused(home, folder, "changed") == "snapshot_broken"
    saved(home, "huge", files={"etcd-main.db": {**snapshot._described(home / "snapshots/good/etcd-main.db")}})
    assert snapshot.begin(home, folder, "good", resolved(), check=True) == "good"
    assert snapshot.read_record(folder) is None


def test_a_snapshot_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DevenvError) as caught:
        snapshot.need_space(tmp_path / "not" / "there", 1 << 60)
    assert caught.value.reason.id == "snapshot_disk"
    snapshot.need_space(tmp_path, 0)


def test_an_environment_that_is_there_cannot_start_from_one(tmp_path: Path) -> None:
    folder = tmp_path / "environments" / "old"
    files.write(folder / "network.yml", "subnets: {}\n")
    saved(tmp_path, "good")
    assert refused(tmp_path, folder, "good") == "snapshot_environment"


def test_what_was_begun_goes_on_until_it_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "environments" / "new"
    saved(tmp_path, "good")
    saved(tmp_path, "other")
    assert snapshot.begin(tmp_path, folder, "", resolved()) == ""
    assert snapshot.begin(tmp_path, folder, "good", resolved()) == "good"
    files.write(folder / "network.yml", "subnets: {}\n")
    assert snapshot.begin(tmp_path, folder, "", resolved()) == "good"
    assert refused(tmp_path, folder, "other") == "snapshot_environment"
    with pytest.raises(DevenvError) as caught:
        snapshot.remove(tmp_path, "good")
    assert caught.value.reason.id == "snapshot_in_use"
    assert snapshot.finish(folder)
    assert not snapshot.finish(folder)
    assert snapshot.begin(tmp_path, folder, "", resolved()) == ""
    assert snapshot.begin(tmp_path, folder, "good", resolved()) == ""
    snapshot.remove(tmp_path, "good")
    assert snapshot.names(tmp_path) == ["other"]
    assert list(snapshot.base(tmp_path).iterdir()) == [snapshot.base(tmp_path) / "other"]


def test_a_broken_snapshot_can_be_removed(tmp_path: Path) -> None:
    (saved(tmp_path, "mad") / snapshot.MANIFEST).write_text("{")
    snapshot.remove(tmp_path, "mad")
    assert snapshot.names(tmp_path) == []


def test_several_nodes_ask_for_their_addresses_again(tmp_path: Path) -> None:
    saved(tmp_path, "good")
    folder = tmp_path / "environments" / "new"
    assert snapshot.seed_network(snapshot.read(tmp_path, "good"), folder)
    assert "bridge" not in (folder / "network.yml").read_text()
    assert not snapshot.seed_network(snapshot.read(tmp_path, "good"), folder)


def test_one_node_gets_a_new_address(tmp_path: Path) -> None:
    saved(tmp_path, "one", nodes={"master-0": {}})
    assert not snapshot.seed_network(snapshot.read(tmp_path, "one"), tmp_path / "environments" / "new")


def test_what_is_fetched_is_private_and_whole(tmp_path: Path) -> None:
    target = snapshot.remote.Target("here", ("bash", "-c"))
    told = snapshot.fetch(target, "printf 'some data'", tmp_path / "x")
    assert told == snapshot._described(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "some data"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600


@pytest.mark.parametrize("script", ["printf half; exit 3", "false | cat", "kill -9 $$"])
def test_a_program_that_fails_on_the_node_is_noticed(tmp_path: Path, script: str) -> None:
    with pytest.raises(DevenvError) as caught:
        snapshot.fetch(snapshot.remote.Target("here", ("bash", "-c")), script, tmp_path / "x")
    assert caught.value.reason.id == "snapshot_failed"


# --- on the node ----------------------------------------------------------------------------------------------------


def staged(root: Path) -> Path:
    staging = root / kubeadm_restore.STAGING.lstrip("/")
    (staging / "pki" / "etcd").mkdir(parents=True)
    (staging / "etcd" / "member" / "snap").mkdir(parents=True)
    for name in ("ca.key", "sa.key", "etcd/ca.key"):
        (staging / "pki" / name).write_text(name)
    return staging


def test_what_was_brought_is_put_where_kubeadm_looks(tmp_path: Path) -> None:
    staging = staged(tmp_path)
    (tmp_path / "etc/kubernetes/pki/etcd").mkdir(parents=True)
    (tmp_path / "etc/kubernetes/pki/etcd/old.crt").write_text("of an earlier try")
    kubeadm_restore.place(str(tmp_path))
    assert (tmp_path / "etc/kubernetes/pki/etcd/ca.key").read_text() == "etcd/ca.key"
    assert not (tmp_path / "etc/kubernetes/pki/etcd/old.crt").exists()
    assert (tmp_path / "var/lib/etcd/member/snap").is_dir()
    assert not staging.exists()


@pytest.mark.parametrize("missing", ["pki/ca.key", "etcd/member"])
def test_half_of_it_is_not_begun_with(tmp_path: Path, missing: str) -> None:
    path = staged(tmp_path) / missing
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(kubeadm.Failed) as caught:
        kubeadm_restore.place(str(tmp_path))
    assert caught.value.reason == "kubernetes_restore_failed"
    assert not (tmp_path / "etc/kubernetes").exists()


KUBELET = """\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Y2E=
    server: https://main.lab:6443
  name: main
contexts:
- context: {cluster: main, user: system:node:master-0}
  name: system:node:master-0@main
current-context: system:node:master-0@main
kind: Config
users:
- name: system:node:master-0
  user:
    client-certificate-data: Y2VydGlmaWNhdGUK
    client-key-data: a2V5Cg==
"""


def test_kubelet_has_its_certificate_where_it_renews_it(tmp_path: Path) -> None:
    conf = tmp_path / "etc/kubernetes/kubelet.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(KUBELET)
    current = tmp_path / "var/lib/kubelet/pki/kubelet-client-current.pem"
    current.parent.mkdir(parents=True)
    current.symlink_to("of-an-earlier-try.pem")
    kubeadm_restore.finalize_kubelet(str(tmp_path))
    place = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    assert yaml.safe_load(conf.read_text())["users"][0]["user"] == {"client-certificate": place, "client-key": place}
    assert yaml.safe_load(conf.read_text())["clusters"] == yaml.safe_load(KUBELET)["clusters"]
    assert current.is_symlink()
    held = tmp_path / os.readlink(current).lstrip("/")
    assert held.read_text() == "certificate\nkey\n"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (held, conf)] == [0o600, 0o600]
    with pytest.raises(kubeadm.Failed) as caught:
        kubeadm_restore.finalize_kubelet(str(tmp_path))
    assert caught.value.reason == "kubernetes_restore_failed"


def test_the_authority_is_published_as_the_controller_manager_does() -> None:
    maps = kubeadm_restore.root_ca_maps(["default", "shop"], "pem")["items"]
    assert [item["metadata"] for item in maps] == [
        {"name": "kube-root-ca.crt", "namespace": "default"},
        {"name": "kube-root-ca.crt", "namespace": "shop"},
    ]
    assert {item["data"]["ca.crt"] for item in maps} == {"pem"}


def test_phases_that_are_not_wanted_are_skipped() -> None:
    skipped = kubeadm_restore.without("addon", "upload-config").removeprefix("--skip-phases=").split(",")
    assert "addon" not in skipped
    assert {"preflight", "certs", "wait-control-plane", "show-join-command"} <= set(skipped)
