"""Snapshots: objects as stored in etcd, and the objects of a saved cluster that are left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import clean, etcd
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import stored_objects as stored
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.stored_objects import delimited


def wrapped(*parts: bytes) -> bytes:
    """Return an object in Kubernetes' envelope: type, object, and a later field that must be kept."""
    envelope = delimited(1, delimited(1, b"v1") + delimited(2, b"Kind")) + delimited(2, b"".join(parts))
    return stored.MAGIC + envelope + delimited(4, b"application/vnd.kubernetes.protobuf")


def status(value: bytes) -> dict[int, bytes]:
    _envelope, parts = stored.opened(value)
    (value,) = (field.value for field in parts if field.number == 3)
    return {field.number: field.value for field in stored.fields(value)}


def pod(phase: bytes, metadata: bytes = b"") -> bytes:
    state = delimited(1, phase) + delimited(2, b"Ready") + delimited(6, b"10.244.0.5") + delimited(9, b"Burstable")
    return wrapped(delimited(1, delimited(1, b"shop-0") + metadata), delimited(2, b"spec"), delimited(3, state))


@pytest.mark.parametrize("phase", [b"Running", b"Pending", b"Unknown"])
def test_a_pod_is_reset_as_if_it_had_never_run(phase: bytes) -> None:
    changed = stored.fresh_pod(pod(phase))
    assert changed is not None
    assert status(changed) == {1: b"Pending", 9: b"Burstable"}
    envelope, parts = stored.opened(changed)
    assert [field.number for field in envelope] == [1, 2, 4]
    assert [field.value for field in parts if field.number == 2] == [b"spec"]


@pytest.mark.parametrize("phase", [b"Succeeded", b"Failed"])
def test_a_completed_pod_stays(phase: bytes) -> None:
    assert stored.fresh_pod(pod(phase)) == pod(phase)


def test_the_mirror_of_a_static_pod_is_removed() -> None:
    annotation = delimited(12, delimited(1, b"kubernetes.io/config.mirror") + delimited(2, b"abc"))
    assert stored.fresh_pod(pod(b"Running", annotation)) is None


def test_a_node_keeps_only_capacity_and_allocatable_of_its_status() -> None:
    state = delimited(1, b"cpu") + delimited(2, b"memory") + delimited(4, b"Ready") + delimited(5, b"10.213.0.10")
    value = wrapped(delimited(1, b"m"), delimited(2, b"podCIDRs"), delimited(3, state))
    changed = stored.fresh_node(value)
    assert status(changed) == {1: b"cpu", 2: b"memory"}
    assert [field.value for field in stored.opened(changed)[1]][:2] == [b"m", b"podCIDRs"]


def test_only_the_token_of_a_service_account_is_removed_from_a_secret() -> None:
    token = wrapped(
        delimited(1, b"m"), delimited(2, b"old token"), delimited(3, b"kubernetes.io/service-account-token")
    )
    changed = stored.fresh_secret(token)
    assert changed is not None
    assert b"old token" not in changed
    assert b"kubernetes.io/service-account-token" in changed
    # The same text in its data does not make it a token.
    other = wrapped(delimited(1, b"m"), delimited(2, b"kubernetes.io/service-account-token"), delimited(3, b"Opaque"))
    assert stored.fresh_secret(other) is None


@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b"k8s:enc:aescbc:v1:key1:xyz", b"k8s\x00\x0a\xff", b"k8s\x00\x12", b"k8s\x00", b"k8s\x00\x07"],
)
def test_a_value_that_is_not_an_object_is_rejected(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        stored.fresh_pod(value)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 300, 70000])
def test_fields_are_parsed_without_loss(length: int) -> None:
    message = delimited(3, b"x" * length) + b"\x08\x96\x01" + b"\x11" + b"8" * 8 + b"\x1d" + b"4" * 4
    fields = stored.fields(message)
    assert [field.number for field in fields] == [3, 1, 2, 3]
    assert fields[0].value == b"x" * length
    assert b"".join(field.raw for field in fields) == message


class Stored:
    """Keys and values in place of an etcd."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        self.values = values

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.values if key.startswith(prefix)]

    def items(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return iter([(key, value) for key, value in self.values.items() if key.startswith(prefix)])


def test_objects_that_only_the_saved_cluster_needs_are_removed() -> None:
    opaque = wrapped(delimited(1, b"m"), delimited(3, b"Opaque"))
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
        # Without these, the administrator and kube-proxy have no permissions until kubeadm has recreated them.
        "/registry/clusterrolebindings/kubeadm:cluster-admins",
        "/registry/clusterrolebindings/kubeadm:node-proxier",
    ]
    values = dict.fromkeys([*gone, *kept], opaque)
    values["/registry/endpointslices/shop/made"] = wrapped(b"", delimited(1, b"endpointslice-controller.k8s.io"))
    values["/registry/pods/shop/shop-0"] = pod(b"Running")
    values["/registry/pods/devenv-validate-0a1b2c/probe-0-master-0"] = pod(b"Running")
    values["/registry/minions/master-0"] = wrapped(delimited(1, b"m"))
    puts, deletions = clean.edits(Stored(values), ["master-0"])  # type: ignore[arg-type]
    assert set(gone) <= set(deletions)
    assert not set(kept) & set(deletions)
    assert "/registry/pods/shop/shop-0" in puts
    assert not set(puts) & set(deletions)


def test_encrypted_secrets_are_refused() -> None:
    values = {"/registry/secrets/shop/password": b"k8s:enc:aescbc:v1:key1:xyz"}
    with pytest.raises(DevenvError) as caught:
        clean.edits(Stored(values), [])  # type: ignore[arg-type]
    assert caught.value.reason.id == "snapshot_encrypted"


@pytest.mark.parametrize(
    ("address", "url"), [("10.213.0.10", "https://10.213.0.10:2380"), ("fd00::10", "https://[fd00::10]:2380")]
)
def test_a_peer_url_has_brackets_for_ipv6(address: str, url: str) -> None:
    assert etcd.EtcdMember("master-0", address).url == url
