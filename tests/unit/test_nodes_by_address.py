"""Node objects that an engine names by address are matched to the inventory's nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import clusters, labels
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import checks

CLUSTER = Cluster(
    name="main",
    kubeconfig=Path("/nowhere"),
    engine="gravity",
    version="1.36.3",
    families=("ipv4",),
    nodes=(
        NodeSpec("master-0", "control_plane", labels={"db": "true"}, addresses=("10.0.0.10",)),
        NodeSpec("worker-0", "workers", addresses=("10.0.0.20",)),
    ),
)


def node(name: str, **info: str) -> dict[str, Any]:
    node_info = {"kubeletVersion": "v1.17.9", "containerRuntimeVersion": "docker://18.9.9", **info}
    return {
        "metadata": {"name": name, "resourceVersion": "1", "labels": {}},
        "spec": {"podCIDRs": ["10.244.7.0/24"]},
        "status": {"nodeInfo": node_info, "conditions": [{"type": "Ready", "status": "True"}]},
    }


NODES = [node("10.0.0.20"), node("10.0.0.10"), node("10.0.0.99")]


def test_node_objects_are_matched_by_address_and_by_name() -> None:
    by_name = clusters.by_node([*NODES[:1], node("master-0"), NODES[2]], CLUSTER)
    assert {key: item["metadata"]["name"] for key, item in by_name.items()} == {
        "worker-0": "10.0.0.20",
        "master-0": "master-0",
        "10.0.0.99": "10.0.0.99",
    }


def test_readiness_of_nodes_named_by_address() -> None:
    assert checks.check_nodes(NODES, CLUSTER).ok
    assert checks.check_nodes(NODES[1:], CLUSTER).missing == ("worker-0 is not registered",)


def test_the_version_of_the_engine_must_be_the_same_on_all_nodes() -> None:
    assert checks.check_versions(NODES, "v1.17.9", CLUSTER).seen == "v1.17.9, docker 18.9.9"
    other = [node("10.0.0.10"), node("10.0.0.20", kubeletVersion="v1.16.3")]
    finding = checks.check_versions(other, "v1.17.9", CLUSTER)
    assert finding.missing == ("worker-0 runs kubelet v1.16.3, expected v1.17.9",)


def test_missing_labels_of_nodes_named_by_address() -> None:
    missing = checks.check_labels(NODES, CLUSTER).missing
    assert "master-0: label db is missing, expected 'true'" in missing
    assert not [text for text in missing if "pod ranges" in text], "the cluster assigns them"


def test_metrics_of_nodes_named_by_address() -> None:
    items = [{"metadata": {"name": name}, "usage": {"cpu": "1"}} for name in ("10.0.0.10", "10.0.0.20")]
    assert checks.check_metrics(items, CLUSTER).ok
    assert checks.check_metrics(items[:1], CLUSTER).missing == ("no metrics of worker-0 yet",)


class Api:
    """Records the patches."""

    def __init__(self) -> None:
        self.written: dict[str, Any] = {}

    def get(self, path: str) -> Any:
        return {"items": NODES}

    def merge(self, path: str, patch: Any) -> None:
        self.written[path] = patch


def test_labels_are_written_to_the_object_of_the_address() -> None:
    api = Api()
    outcome = labels.apply(CLUSTER, api, timeout=1)  # type: ignore[arg-type]  # it has the methods that are used
    assert sorted(outcome.changed) == ["master-0", "worker-0"]
    assert sorted(api.written) == ["/api/v1/nodes/10.0.0.10", "/api/v1/nodes/10.0.0.20"]
