"""Keep as many CoreDNS pods as kubeadm would create in a new cluster of the same size."""

from __future__ import annotations

from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import api
from ansible_collections.devenv.lab.plugins.module_utils.node import wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine

DEPLOYMENT = ("--namespace", "kube-system", "deployment", "coredns")


def grow(machine: Machine, replicas: int) -> bool:
    """Scale from one pod to ``replicas``, and return whether it did. Any other number of pods is the user's choice."""
    if replicas < 2 or _spec(machine).get("replicas") != 1:
        return False
    _scale(machine, 1, replicas)
    return True


def shrink(machine: Machine, nodes: int) -> list[str]:
    """Remove pods that would stay pending because they must not share a node; return a text for those removed."""
    spec = _spec(machine)
    anti_affinity = spec.get("template", {}).get("spec", {}).get("affinity", {}).get("podAntiAffinity", {})
    replicas = spec.get("replicas", 0)
    if nodes < 1 or replicas <= nodes or not anti_affinity.get("requiredDuringSchedulingIgnoredDuringExecution"):
        return []
    _scale(machine, replicas, nodes)
    return [f"{replicas - nodes} of {replicas} pods of CoreDNS"]


def wait_until_ready(machine: Machine, timeout: float) -> None:
    """Wait up to ``timeout`` s until evicted pods are ready again: the next node may have the only ready one."""

    def is_ready() -> bool:
        result = api.kubectl(machine, "get", *DEPLOYMENT, "-o", "json")
        if result.code != 0:
            return "NotFound" in result.stderr
        deployment = result.json({})
        ready: int = deployment.get("status", {}).get("readyReplicas", 0)
        return ready >= int(deployment.get("spec", {}).get("replicas", 1))

    wait.poll(is_ready, machine.now() + timeout, 1, machine.clock)


def _spec(machine: Machine) -> dict[str, Any]:
    return dict(api.get(machine, "the Deployment of CoreDNS", *DEPLOYMENT).get("spec", {}))


def _scale(machine: Machine, current: int, replicas: int) -> None:
    words = (f"--current-replicas={current}", f"--replicas={replicas}", "-o", "json")
    api.check(api.kubectl(machine, "scale", *DEPLOYMENT, *words), "CoreDNS cannot be scaled")
