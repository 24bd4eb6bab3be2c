"""A change of a node's address: the decisions and the rewritten files; test_life (e2e) changes that of a real node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import address
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import ProgramResult
from support.node import Node, write


@pytest.mark.parametrize(
    ("server", "now"),
    [
        ("https://10.0.0.10:6443", "https://10.0.0.77:6443"),
        ("https://[fd00::10]:6443", "https://10.0.0.77:6443"),
        ("https://main.lab.devenv.internal:6443", "https://main.lab.devenv.internal:6443"),
    ],
)
def test_the_server_address_of_a_kubeconfig_changes_but_a_name_stays(server: str, now: str) -> None:
    text = "clusters:\n- cluster:\n    server: {}\n  name: main\n"
    assert address.with_server(text.format(server), "10.0.0.77") == text.format(now)
    if server != now:
        assert "https://[fd00::77]:6443" in address.with_server(text.format(server), "fd00::77")


class Control(Node):
    """The only control plane node of a cluster, with the address 10.0.0.10; ``ran`` lists the commands that it ran."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.nodes, self.ran, self.killed = ["master-0"], list[str](), False
        for path in (*kubernetes.CONTROL_PLANE_FILES, *STALE):
            write(self / path)
        self.advertise("10.0.0.10")
        write(self / address.FLAGS, 'KUBELET_KUBEADM_ARGS="--node-ip=10.0.0.10"\n')
        write(self / kubernetes.KUBELET, "    server: https://10.0.0.10:6443\n")
        kubernetes.mark("control_plane", {}, self.root)
        self.ready = lambda *_, **__: True
        self.run = self.answer

    def answer(self, argv: list[str], **_: Any) -> ProgramResult:
        words = " ".join(word for word in argv if not word.startswith("-"))
        if "get nodes" in words:
            return ProgramResult(0, json.dumps({"items": [{"metadata": {"name": name}} for name in self.nodes]}))
        self.ran.append(words)
        if self.killed and "kubelet-start" in argv:
            raise KeyboardInterrupt
        if "member list" in words:
            member = {"ID": 10, "peerURLs": ["https://10.0.0.10:2380"]}
            return ProgramResult(0, json.dumps({"members": [member]}))
        if "get pods" in words:
            owner = {"ownerReferences": [{"kind": "DaemonSet"}], "namespace": "kube-system", "name": "kube-proxy-x"}
            static = {"ownerReferences": [{"kind": "Node"}], "namespace": "kube-system", "name": "etcd-x"}
            pods = [{"metadata": metadata, "spec": {"hostNetwork": True}} for metadata in (owner, static)]
            return ProgramResult(0, json.dumps({"items": pods}))
        return ProgramResult(0)


STALE = [f"{address.PKI}/{name}.crt" for name in address.OF_AN_ADDRESS.values()]


@pytest.fixture
def node(tmp_path: Path) -> Control:
    return Control(tmp_path / "node")


def params(*addresses: str) -> dict[str, Any]:
    return {"addresses": addresses, "node": "master-0", "config": "x", "patches": {}, "timeout": 5}


def test_the_current_address_changes_nothing(node: Control) -> None:
    assert address.change(node, params("10.0.0.10"))["changed"] is False
    assert node.ran == []


def test_another_address_rewrites_the_node(node: Control) -> None:
    assert address.change(node, params("10.0.0.77"), True) == {"changed": True, "before": ["10.0.0.10"]}
    assert node.ran == []
    assert address.change(node, params("10.0.0.77")) == {"changed": True, "before": ["10.0.0.10"]}
    assert (node / kubernetes.KUBELET).read_text() == "    server: https://10.0.0.77:6443\n"
    # kubeadm recreates only missing certificates.
    assert not [path for path in STALE if (node / path).exists()]
    ran = "\n".join(node.ran)
    phases = ["certs apiserver", "certs etcd-peer", "kubeconfig scheduler", "etcd local", "control-plane all"]
    assert [phase for phase in phases if f"kubeadm init phase {phase}" in ran] == phases
    assert "etcdctl member update a" in ran
    assert "etcdctl del /registry/masterleases/10.0.0.10" in ran
    assert "delete pod kube-system kube-proxy-x" in ran
    assert "etcd-x" not in ran
    assert not node.exists(address.RECORD)


def test_a_cluster_of_several_nodes_is_refused_before_anything_changes(node: Control) -> None:
    node.nodes = ["worker-0", "master-0"]
    with pytest.raises(StepFailed, match="master-0, worker-0") as raised:
        address.change(node, params("10.0.0.77"))
    assert raised.value.reason == "address_many_nodes"
    assert node.ran == []
    assert not node.exists(address.RECORD)


def test_the_next_run_completes_a_killed_change(node: Control) -> None:
    """It may have reached the last file while the API does not respond, so the nodes cannot be counted again."""
    node.killed = True
    with pytest.raises(KeyboardInterrupt):
        address.change(node, params("10.0.0.10", "fd00::10"))
    node.killed, node.nodes = False, []
    write(node / address.FLAGS, 'KUBELET_KUBEADM_ARGS="--node-ip=10.0.0.10,fd00::10"\n')
    assert address.change(node, params("10.0.0.10", "fd00::10"))["changed"] is True
    assert len([words for words in node.ran if "phase kubelet-start" in words]) == 2
    assert not node.exists(address.RECORD)


def test_a_killed_change_is_not_completed_without_a_cluster(node: Control) -> None:
    node.killed = True
    with pytest.raises(KeyboardInterrupt):
        address.change(node, params("10.0.0.77"))
    node.killed = False
    kubernetes.unmark(node.root)
    node.ran.clear()
    with pytest.raises(StepFailed) as raised:
        address.change(node, params("10.0.0.77"))
    assert raised.value.reason == "address_refused"
    assert node.ran == []
