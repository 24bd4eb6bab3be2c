"""Whether the metrics API tells of every node."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import metrics

NODES = tuple(NodeSpec(name, "control_plane") for name in ("a", "b"))
CLUSTER = Cluster("main", Path("k"), "kubeadm", "1.36.3", ("ipv4",), NODES)


class Api:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def get(self, path: str) -> Any:
        assert path == "/apis/metrics.k8s.io/v1beta1/nodes"
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"items": self.answer}


def row(name: str, usage: dict[str, str] | None = None) -> dict[str, Any]:
    return {"metadata": {"name": name}, "usage": {"cpu": "1m", "memory": "2Ki"} if usage is None else usage}


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ([row("a"), row("b")], []),
        ([row("b")], ["no metrics of a yet"]),
        ([row("a", {}), row("b")], ["no metrics of a yet"]),
        ([], ["no metrics of a yet", "no metrics of b yet"]),
        (client.ApiError(503, "", "unavailable"), ["the metrics API answers 503: unavailable"]),
        (client.ApiError(404, "NotFound", "no such page"), ["the metrics API answers 404: no such page"]),
        (client.ApiUnreachable("cut"), ["the API does not answer: cut"]),
    ],
)
def test_metrics(answer: Any, missing: list[str]) -> None:
    finding = metrics.Metrics(CLUSTER).look(cast(client.Api, Api(answer)))["metrics"]
    assert list(finding.missing) == missing
