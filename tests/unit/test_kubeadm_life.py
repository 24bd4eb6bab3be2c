"""Certificates renewed, an address changed: what is decided; test_life (e2e) has the rest on a real node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import cluster as kubeadm
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import life as kubeadm_life
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import state as kubernetes_state
from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons

DAY = 86400.0
ENDS = {
    "/etc/kubernetes/pki/ca.crt": "1970-01-03T00:00:00Z",
    "/etc/kubernetes/pki/apiserver.crt": "1970-01-05T00:00:00Z",
    "/etc/kubernetes/pki/etcd/peer.crt": "1970-02-05T00:00:00Z",
    "/var/lib/kubelet/pki/kubelet-client-current.pem": "1970-01-02T00:00:00Z",
}
API, PEER = "/etc/kubernetes/pki/apiserver.crt", "/etc/kubernetes/pki/etcd/peer.crt"


@pytest.mark.parametrize(
    ("within", "due"), [(None, [API, PEER]), (30 * DAY, [API]), (0.0, []), (365 * DAY, [API, PEER])]
)
def test_which_certificates_are_due(within: float | None, due: list[str]) -> None:
    """Neither the authorities nor kubelet's, which it renews by itself."""
    assert kubeadm_life.expiring(ENDS, now=DAY, within=within) == due


def test_nothing_runs_when_none_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_state, "certificate_ends", lambda: ENDS)
    monkeypatch.setattr(kubeadm, "run", lambda *words, **more: pytest.fail("kubeadm ran"))
    assert kubeadm_life.perform("renew_certificates", {"within": 1.0, "timeout": 5}, DAY)["changed"] is False
    assert kubeadm_life.perform("renew_certificates", {"within": None, "timeout": 5}, DAY, True)["changed"] is True


def test_a_failed_renewal_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kubernetes_state, "certificate_ends", lambda: ENDS)
    monkeypatch.setattr(kubeadm, "LOGS", str(tmp_path))
    monkeypatch.setattr(kubeadm, "run", lambda *words, **more: kubeadm.Result(1, ["error: no space left"]))
    with pytest.raises(kubeadm.Failed, match="no space left") as raised:
        kubeadm_life.renew({"within": None, "timeout": 5}, DAY)
    assert reasons.catalogue()[raised.value.reason].exit == 5


def test_programs_are_found_by_their_file_name(tmp_path: Path) -> None:
    for pid, line in (("7", b"/usr/local/bin/etcd\0--name=x\0"), ("8", b"sh\0-c\0etcd\0"), ("9", b"")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(line)
    (tmp_path / "self").mkdir()
    assert kubeadm_life.running(["etcd", "kube-scheduler"], str(tmp_path)) == {"etcd": [7], "kube-scheduler": []}


@pytest.mark.parametrize(
    ("server", "now"),
    [
        ("https://10.0.0.10:6443", "https://10.0.0.77:6443"),
        ("https://[fd00::10]:6443", "https://10.0.0.77:6443"),
        ("https://main.lab.devenv.internal:6443", "https://main.lab.devenv.internal:6443"),
    ],
)
def test_the_server_of_a_kubeconfig(server: str, now: str) -> None:
    text = "clusters:\n- cluster:\n    server: {}\n  name: main\n"
    assert kubeadm_life.with_server(text.format(server), "10.0.0.77") == text.format(now)
    if server != now:
        assert "https://[fd00::77]:6443" in kubeadm_life.with_server(text.format(server), "fd00::77")


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A node that uses 10.0.0.10, and what was asked of it."""
    (tmp_path / "flags").write_text('KUBELET_KUBEADM_ARGS="--node-ip=10.0.0.10"\n')
    monkeypatch.setattr(kubeadm_life, "FLAGS", str(tmp_path / "flags"))
    monkeypatch.setattr(kubernetes_state, "KUBELET", str(tmp_path / "kubelet.conf"))
    monkeypatch.setattr(kubernetes_state, "MARKER", str(tmp_path / "kubernetes.json"))
    monkeypatch.setattr(kubernetes_state, "state", lambda: {"state": "control_plane"})
    monkeypatch.setattr(kubernetes_state, "apiserver_address", lambda: "10.0.0.10")
    seen: dict[str, Any] = {"nodes": {"master-0"}, "rewritten": []}
    monkeypatch.setattr(kubeadm, "_nodes", lambda: seen["nodes"])

    def rewrite(params: dict[str, Any], wanted: list[str]) -> None:
        seen["rewritten"].append(wanted)
        if seen.get("killed"):
            raise KeyboardInterrupt

    monkeypatch.setattr(kubeadm_life, "_rewrite", rewrite)
    return seen


def test_an_address_that_is_used_already(node: dict[str, Any]) -> None:
    assert kubeadm_life.change_address({"addresses": ["10.0.0.10"]})["changed"] is False
    assert node["rewritten"] == []


def test_another_address(node: dict[str, Any]) -> None:
    assert kubeadm_life.change_address({"addresses": ["10.0.0.77"]}, True) == {"changed": True, "before": ["10.0.0.10"]}
    assert node["rewritten"] == []
    assert kubeadm_life.change_address({"addresses": ["10.0.0.77"]}) == {"changed": True, "before": ["10.0.0.10"]}
    assert node["rewritten"] == [["10.0.0.77"]]
    assert not os.path.exists(kubeadm_life._mark())


def test_a_cluster_of_several_nodes_is_refused_before_anything_changes(node: dict[str, Any]) -> None:
    node["nodes"] = {"master-0", "worker-0"}
    with pytest.raises(kubeadm.Failed, match="master-0, worker-0") as raised:
        kubeadm_life.change_address({"addresses": ["10.0.0.77"]})
    assert raised.value.reason == "address_many_nodes"
    assert node["rewritten"] == []
    assert not os.path.exists(kubeadm_life._mark())


def test_a_killed_change_is_finished_by_the_next(node: dict[str, Any]) -> None:
    """It may have come to the last file, and the API does not answer: nobody can count the nodes any more."""
    node["killed"] = True
    with pytest.raises(KeyboardInterrupt):
        kubeadm_life.change_address({"addresses": ["10.0.0.10", "fd00::10"]})
    node["killed"], node["nodes"] = False, set()
    assert kubeadm_life.change_address({"addresses": ["10.0.0.10", "fd00::10"]})["changed"] is True
    assert len(node["rewritten"]) == 2
