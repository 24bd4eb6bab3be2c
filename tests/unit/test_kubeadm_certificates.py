"""Decisions about the renewal of certificates; test_life (e2e) renews those of a real node."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import actions, certificates
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes, program
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, StepFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons
from support import tls
from support.node import Node

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
def test_only_expiring_certificates_are_due(within: float | None, due: list[str]) -> None:
    """Neither CAs nor the certificate of kubelet, which renews its own."""
    assert certificates.expiring(ENDS, now=DAY, within=within) == due


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node whose API server certificate expires in ten days, and whose kubeadm fails."""
    node = Node(tmp_path / "node")
    path = Path(node.path(API))
    path.parent.mkdir(parents=True)
    tls.self_signed(path.with_suffix(".key"), path, days=10)
    node.run = lambda argv, **_: program.ProgramResult(1, "error: no space left\n")
    return node


def test_nothing_runs_when_none_is_due(node: Machine) -> None:
    assert actions.perform(node, "renew_certificates", {"within": DAY, "timeout": 5})["changed"] is False
    checked = actions.perform(node, "renew_certificates", {"within": None, "timeout": 5}, True)
    assert (checked["changed"], checked["due"]) == (True, [API])
    assert checked["certificates"] == kubernetes.certificate_ends(node.root)


def test_a_failed_renewal_is_reported(node: Machine) -> None:
    with pytest.raises(StepFailed, match="no space left") as raised:
        certificates.renew(node, {"within": None, "timeout": 5})
    assert reasons.catalogue()[raised.value.reason].exit == 5
