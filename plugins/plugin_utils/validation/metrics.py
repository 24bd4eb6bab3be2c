"""Is the metrics API ready: does it tell of every node of the cluster?"""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster, by_node
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.checks import Finding

NODES = "/apis/metrics.k8s.io/v1beta1/nodes"


def check(found: Iterable[Json], cluster: Cluster) -> Finding:
    """Every node of the profile is among the metrics (format: NodeMetrics of metrics.k8s.io/v1beta1)."""
    told = by_node((item for item in found if item.get("usage")), cluster)
    missing = tuple(f"no metrics of {node.name} yet" for node in cluster.nodes if node.name not in told)
    return Finding(f"metrics of {len(cluster.nodes)} nodes", missing)


class Metrics:
    """One check, ``metrics``, of a cluster that is to have metrics-server."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def look(self, api: client.Api) -> dict[str, Finding]:
        try:
            return {"metrics": check(api.get(NODES)["items"], self._cluster)}
        except client.ApiError as error:
            text = f"the metrics API answers {error.status}: {error}"
        except client.ApiUnreachable as error:
            text = f"the API does not answer: {error}"
        return {"metrics": Finding(text, (text,))}

    def explain(self, api: client.Api) -> dict[str, str]:
        return {}
