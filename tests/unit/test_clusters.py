"""The clusters of a run, from host variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import clusters


def host(cluster: str, **more: Any) -> dict[str, Any]:
    return {
        "devenv_cluster": cluster,
        "devenv_kubeconfig": f"/s/clusters/{cluster}/kubeconfig",
        "devenv_engine": "kubeadm",
        "devenv_kubernetes_version": "1.36.3",
        "devenv_families": ["ipv4"],
        "devenv_group": "workers",
    } | more


def test_hosts_are_grouped_by_cluster_in_their_order() -> None:
    hostvars = {
        "a": host("main", devenv_labels={"pipe": True, "n": 1}, devenv_taints=["x:NoSchedule"]),
        "b": host("blue", devenv_pod_cidrs=["10.244.1.0/24"]),
        "bare": host(""),
        "c": host("main", devenv_group="control_plane"),
    }
    main, blue = clusters.from_hostvars(hostvars, hostvars)
    assert (main.name, [node.name for node in main.nodes], main.kubeconfig) == (
        "main",
        ["a", "c"],
        Path("/s/clusters/main/kubeconfig"),
    )
    assert main.nodes[0] == NodeSpec(
        "a", "workers", "main", labels={"pipe": "True", "n": "1"}, taints=("x:NoSchedule",)
    )
    assert blue.nodes[0].pod_cidrs == ("10.244.1.0/24",)


def test_endpoint_and_addresses_of_a_cluster() -> None:
    variables = {
        "devenv_endpoint": "main.lab.devenv.internal",
        "devenv_endpoint_addresses": ["10.213.4.5"],
        "devenv_addresses": ["10.213.4.10"],
    }
    (cluster,) = clusters.from_hostvars(["a"], {"a": host("main", **variables)})
    assert (cluster.endpoint, cluster.endpoint_addresses) == ("main.lab.devenv.internal", ("10.213.4.5",))
    assert cluster.nodes[0].addresses == ("10.213.4.10",)
    (plain,) = clusters.from_hostvars(["a"], {"a": host("main")})
    assert (plain.endpoint_addresses, plain.nodes[0].addresses) == ((), ())


def test_a_missing_variable_is_named() -> None:
    hostvars = {"a": host("main")}
    del hostvars["a"]["devenv_engine"]
    with pytest.raises(DevenvError, match="a: has no variable devenv_engine"):
        clusters.from_hostvars(["a"], hostvars)


def test_without_hosts_there_are_no_clusters() -> None:
    assert clusters.from_hostvars([], {}) == []


def test_only_the_named_clusters_are_returned() -> None:
    hostvars = {"a": host("red"), "b": host("blue"), "bare": host("")}
    assert [cluster.name for cluster in clusters.from_hostvars(hostvars, hostvars, ["blue"])] == ["blue"]
    with pytest.raises(DevenvError, match="no cluster green") as caught:
        clusters.from_hostvars(hostvars, hostvars, ["green", "blue"])
    assert caught.value.reason.id == "cluster_unknown"
    assert "red, blue" in caught.value.advice
