"""Volumes on the disks of nodes: which are lost with a node, and how their claims become usable again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, volumes

CLAIMS = "/api/v1/namespaces/shop/persistentvolumeclaims"


def affinity(*nodes: str, key: str = volumes.HOSTNAME, operator: str = "In") -> dict[str, Any]:
    rows = [{"key": key, "operator": operator, "values": list(nodes)}]
    return {"required": {"nodeSelectorTerms": [{"matchExpressions": rows}]}}


def volume(name: str, claim: str = "", **spec: Any) -> dict[str, Any]:
    bound = {"claimRef": {"namespace": "shop", "name": claim}} if claim else {}
    return {"metadata": {"name": name}, "spec": bound | spec}


PVS = [
    volume("pv-0", "data-0", nodeAffinity=affinity("worker-0")),
    volume("pv-1", "data-1", nodeAffinity=affinity("worker-1")),
    volume("pv-2", "shared"),
    volume("pv-3", "either", nodeAffinity=affinity("worker-0", "worker-1")),
    volume("pv-4", "zone", nodeAffinity=affinity("a", key="topology.kubernetes.io/zone")),
    volume("pv-5", nodeAffinity=affinity("worker-0")),
]
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {
        "name": "data-0",
        "namespace": "shop",
        "uid": "1",
        "resourceVersion": "7",
        "labels": {"app": "db"},
        "annotations": {"mine": "x", "pv.kubernetes.io/bind-completed": "yes"},
        "finalizers": ["kubernetes.io/pvc-protection"],
    },
    "spec": {"storageClassName": "local-path", "volumeName": "pv-0", "accessModes": ["ReadWriteOnce"]},
    "status": {"phase": "Bound"},
}


def pod(name: str, node: str, *claims: str) -> dict[str, Any]:
    mounted = [{"name": "v", "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": node, "volumes": [{"name": "tmp", "emptyDir": {}}, *mounted]},
    }


PODS = [pod("db-0", "worker-0", "data-0", "shared"), pod("db-1", "worker-1", "data-1"), pod("waits", "", "data-0")]


class FakeApi(client.Api):
    """An API with these objects. A claim disappears when it is deleted, unless it is ``protected``."""

    def __init__(self, *, protected: bool = False, status: int = 0) -> None:
        self.calls: list[str] = []
        self.created: list[Any] = []
        self.protected, self.status, self.deleted = protected, status, False

    def _request(self, method: str, path: str, query: Any, body: str | None = None, kind: str = "") -> bytes:
        if method == "GET" and path == f"{CLAIMS}/data-0":
            if self.deleted and not self.protected:
                raise client.ApiError(404, "NotFound", "gone")
            return json.dumps(CLAIM).encode()
        if method == "GET":
            return json.dumps({"items": PVS if path.endswith("persistentvolumes") else PODS}).encode()
        self.calls.append(f"{method} {path.rpartition('/')[2]}" + (f" {query}" if query else ""))
        self.deleted |= path == f"{CLAIMS}/data-0"
        if method == "POST":
            if self.status:
                raise client.ApiError(self.status, "", "refused")
            self.created.append(json.loads(body or ""))
        return b"{}"


def test_volumes_that_only_one_node_can_use_are_lost_with_it() -> None:
    api = FakeApi()
    assert [str(lost) for lost in volumes.lost(api, ["worker-0"])] == ["shop/data-0 (pv-0)"]
    assert [lost.name for lost in volumes.lost(api, ["worker-0", "worker-1"])] == ["pv-0", "pv-1"]
    assert volumes.lost(api, ["master-0"]) == []
    assert volumes.bound([volume("x", "y", nodeAffinity=affinity("worker-0", operator="Exists"))])[0].node == ""


def test_volumes_elsewhere_that_pods_of_the_node_use_are_kept() -> None:
    assert [str(kept) for kept in volumes.kept(FakeApi(), ["worker-0"])] == ["shop/shared (pv-2)"]
    assert volumes.kept(FakeApi(), ["worker-1"]) == []


def test_a_released_volume_is_removed_and_its_claim_is_created_again() -> None:
    api = FakeApi()
    assert volumes.release(api, volumes.lost(api, ["worker-0"])) == []
    assert api.calls == [
        "DELETE db-0 {'gracePeriodSeconds': '0'}",
        "DELETE pv-0",
        "DELETE data-0",
        "POST persistentvolumeclaims",
    ]
    (created,) = api.created
    assert created["metadata"] == {
        "name": "data-0",
        "namespace": "shop",
        "labels": {"app": "db"},
        "annotations": {"mine": "x"},
    }
    assert created["spec"] == {"storageClassName": "local-path", "accessModes": ["ReadWriteOnce"]}


@pytest.mark.parametrize(
    ("api", "message"),
    [
        (FakeApi(protected=True), "shop/data-0 (pv-0): its claim is still in use"),
        (FakeApi(status=403), "shop/data-0 (pv-0): refused"),
        (FakeApi(status=409), ""),  # StatefulSet's controller was faster
    ],
)
def test_a_claim_that_cannot_be_created_again_is_reported(api: FakeApi, message: str) -> None:
    failed = volumes.release(api, volumes.lost(api, ["worker-0"]), timeout=0.3)
    assert failed == ([message] if message else [])
