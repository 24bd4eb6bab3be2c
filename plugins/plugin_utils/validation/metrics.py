"""Check that the metrics API has metrics of every node."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster, by_node
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Finding, Level, guarded

NODES = "/apis/metrics.k8s.io/v1beta1/nodes"


def check(items: Iterable[Json], cluster: Cluster) -> Finding:
    """Check that every node of the profile is among the metrics (format: NodeMetrics of metrics.k8s.io/v1beta1)."""
    reported = by_node((item for item in items if item.get("usage")), cluster)
    missing = tuple(f"no metrics of {node.name} yet" for node in cluster.nodes if node.name not in reported)
    return Finding(f"metrics of {len(cluster.nodes)} nodes", missing)


class Metrics(Level):
    """The check ``metrics`` of a cluster with metrics-server."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def look(self, api: client.Api) -> dict[str, Finding]:
        return {"metrics": guarded(lambda: check(api.get(NODES)["items"], self._cluster), "metrics API")}
