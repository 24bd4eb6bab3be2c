"""One test file for three shapes of a cluster, and hosts of none beside it.

cluster_installer names what makes the clusters: with another installer the same tests hold.
"""

import pytest

from devenv.testing import cluster, hardware_config, on_all

cluster_installer = "k8s"

SERVICES = {"memsql", "monitor", "pipe", "postgres", "seaweed"}


def node_labels(one):
    """Labels of each node of a cluster, by the test's name of the host."""
    return {name: node.metadata.labels for name, node in one.Kubectl.nodes_by_host().items()}


@hardware_config(
    hardware={"host1": {}, "host2": {}, "host3": {}},
    grouping={"cluster1": {"hosts": ["host1", "host2"]}},
)
def test_two_hosts_of_three_are_a_cluster(base_config):
    one = base_config.clusters.cluster1
    assert one.hosts.host1 is base_config.hosts.host1
    assert one.K8SMaster() is base_config.hosts.host1
    assert set(node_labels(one)) == {"host1", "host2"}
    # The third is a machine of the same environment, and reaches the others.
    names = on_all(base_config.hosts, "hostname")
    assert len(set(names.values())) == 3
    there = base_config.hosts.host1
    base_config.hosts.host3.SshDirect.execute(f"timeout 5 bash -c '< /dev/tcp/{there.ip}/6443'")


@hardware_config(cluster("aio"))
def test_aio(base_config):
    (labels,) = node_labels(base_config.clusters.cluster1).values()
    assert {name for name in SERVICES if labels.get(name) == "true"} == SERVICES
    assert all(pod.status.phase == "Running" for pod in base_config.clusters.cluster1.Kubectl.get_pods("kube-system"))


@hardware_config(cluster("hq-ha"))
def test_hq_ha(base_config):
    one = base_config.clusters.cluster1
    assert one.masters == ("host1", "host2", "host3")
    assert all(set(labels) >= SERVICES for labels in node_labels(one).values())


@hardware_config(cluster("master-2pipe"))
class TestMaster2Pipe:
    def test_workers_are_pipes(self, base_config):
        found = node_labels(base_config.clusters.cluster1)
        assert [labels.get("pipe") for labels in found.values()] == [None, "true", "true"]

    @pytest.mark.parametrize("name", ["host2", "host3"])
    def test_each_worker_runs_a_pod_of_its_own(self, base_config, name):
        kubectl = base_config.clusters.cluster1.Kubectl
        node = kubectl.nodes_by_host()[name].metadata.name
        assert any(pod.spec.node_name == node for pod in kubectl.get_pods())
