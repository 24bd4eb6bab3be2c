"""Renew the certificates of a control plane node."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import static_pods
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.run import kubeadm
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine

_REASON = "kubernetes_certificates"


def expiring(ends: dict[str, str], now: float, within: float | None) -> list[str]:
    """Return the paths of the certificates that expire within ``within`` s from ``now``, or all for None.

    ``ends`` are as `kubernetes.certificate_ends` returns them. CAs are left out, because kubeadm does not renew them,
    and kubelet's certificate, because kubelet does.
    """
    limit = None if within is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + within))
    return sorted(
        path
        for path, end in ends.items()
        if not path.endswith("/ca.crt") and "/kubelet/" not in path and (limit is None or end <= limit)
    )


def renew(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Renew the certificates and kubeconfigs of this control plane node if one of them expires within
    ``params["within"]`` s (always for None), and restart the programs that read them only at their start.

    Raises `StepFailed`.
    """
    before = kubernetes.certificate_ends(machine.root)
    due = expiring(before, machine.clock.wall(), params["within"])
    result = {"changed": bool(due), "due": due, "certificates": before}
    if only_check or not due:
        return result
    kubeadm(machine, ["certs", "renew", "all"], name="renew", timeout=120, reason=_REASON)
    static_pods.restart(machine, params["timeout"], _REASON)
    return dict(result, certificates=kubernetes.certificate_ends(machine.root))
