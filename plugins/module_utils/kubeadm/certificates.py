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
    """Return the paths of the certificates that end within ``within`` s from ``now``; None: all. The authorities are
    left out: renewing does not make them new. ``ends`` are as `kubernetes.certificate_ends` returns them.
    """
    limit = None if within is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + within))
    return sorted(
        path
        for path, end in ends.items()
        if not path.endswith("/ca.crt") and "/kubelet/" not in path and (limit is None or end <= limit)
    )


def renew(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Renew the certificates and kubeconfigs of this control plane node when one of them ends within
    ``params["within"]`` s (None: in any case), and restart what reads them only then.

    kubelet renews its own by itself. Raises `StepFailed`.
    """
    before = kubernetes.certificate_ends(machine.root)
    due = expiring(before, machine.clock.wall(), params["within"])
    result = {"changed": bool(due), "due": due, "certificates": before}
    if only_check or not due:
        return result
    kubeadm(machine, ["certs", "renew", "all"], name="renew", timeout=120, reason=_REASON)
    static_pods.restart(machine, params["timeout"], _REASON)
    return dict(result, certificates=kubernetes.certificate_ends(machine.root))
