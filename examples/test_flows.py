"""Tests of four topologies, one of them with a host outside the cluster.

cluster_installer selects the installer of the clusters; the same tests pass with another one.
"""

import pytest

from devenv.testing import cluster, hardware_config, on_all

cluster_installer = "k8s"

SERVICES = {"memsql", "monitor", "pipe", "postgres", "seaweed"}


def node_labels(cluster):
    """Return the labels of each node of a cluster, by the test's host names."""
    return {name: node.metadata.labels for name, node in cluster.Kubectl.nodes_by_host().items()}


@hardware_config(
    hardware={"host1": {}, "host2": {}, "host3": {}},
    grouping={"cluster1": {"hosts": ["host1", "host2"]}},
)
def test_two_hosts_of_three_are_a_cluster(base_config):
    cluster1, hosts = base_config.clusters.cluster1, base_config.hosts
    assert cluster1.hosts.host1 is hosts.host1
    assert cluster1.K8SMaster() is hosts.host1
    assert set(node_labels(cluster1)) == {"host1", "host2"}
    # The third host is in the same environment and reaches the others.
    names = on_all(hosts, "hostname")
    assert len(set(names.values())) == 3
    hosts.host3.SshDirect.execute(f"timeout 5 bash -c '< /dev/tcp/{hosts.host1.ip}/6443'")


@hardware_config(cluster("aio"))
def test_aio(base_config):
    (labels,) = node_labels(base_config.clusters.cluster1).values()
    assert {name for name in SERVICES if labels.get(name) == "true"} == SERVICES
    assert all(pod.status.phase == "Running" for pod in base_config.clusters.cluster1.Kubectl.get_pods("kube-system"))


@hardware_config(cluster("hq-ha"))
def test_hq_ha(base_config):
    cluster1 = base_config.clusters.cluster1
    assert cluster1.masters == ("host1", "host2", "host3")
    assert all(set(labels) >= SERVICES for labels in node_labels(cluster1).values())


@hardware_config(cluster("master-2pipe"))
class TestMaster2Pipe:
    def test_workers_are_pipes(self, base_config):
        nodes = node_labels(base_config.clusters.cluster1)
        assert [labels.get("pipe") for labels in nodes.values()] == [None, "true", "true"]

    @pytest.mark.parametrize("name", ["host2", "host3"])
    def test_each_worker_runs_a_pod(self, base_config, name):
        kubectl = base_config.clusters.cluster1.Kubectl
        node = kubectl.nodes_by_host()[name].metadata.name
        assert any(pod.spec.node_name == node for pod in kubectl.get_pods())
