"""Keep as many pods of CoreDNS as a cluster of its size would have been created with."""

from __future__ import annotations

from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import api
from ansible_collections.devenv.lab.plugins.module_utils.node import wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine

DNS = ("--namespace", "kube-system")


def grow(machine: Machine, wanted: int) -> bool:
    """Give a cluster that is no longer a single node ``wanted`` pods. Another number than one is the user's choice."""
    if wanted < 2 or _spec(machine).get("replicas") != 1:
        return False
    _scale(machine, 1, wanted)
    return True


def shrink(machine: Machine, nodes: int) -> list[str]:
    """Keep no more pods that must not share a node than there are nodes: one would wait forever. Return what went."""
    spec = _spec(machine)
    apart = spec.get("template", {}).get("spec", {}).get("affinity", {}).get("podAntiAffinity", {})
    replicas = spec.get("replicas", 0)
    if nodes < 1 or replicas <= nodes or not apart.get("requiredDuringSchedulingIgnoredDuringExecution"):
        return []
    _scale(machine, replicas, nodes)
    return [f"{replicas - nodes} of {replicas} pods of CoreDNS"]


def wait_until_back(machine: Machine, timeout: float) -> None:
    """Give pods that had to move the time to be back: the next node may hold the only one that answers."""

    def is_back() -> bool:
        result = api.kubectl(machine, *DNS, "get", "deployment", "coredns", "-o", "json")
        if result.code != 0:
            return "NotFound" in result.stderr
        shown = result.json({})
        ready: int = shown.get("status", {}).get("readyReplicas", 0)
        return ready >= int(shown.get("spec", {}).get("replicas", 1))

    wait.poll(is_back, machine.now() + timeout, 1, machine.clock)


def _spec(machine: Machine) -> dict[str, Any]:
    result = api.kubectl(machine, *DNS, "get", "deployment", "coredns", "-o", "json")
    return dict(api.parse(result, "CoreDNS cannot be looked at").get("spec", {}))


def _scale(machine: Machine, current: int, wanted: int) -> None:
    words = (f"--current-replicas={current}", f"--replicas={wanted}", "-o", "json")
    api.check(api.kubectl(machine, *DNS, "scale", "deployment", "coredns", *words), "CoreDNS cannot be scaled")
