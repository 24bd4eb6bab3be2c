"""Query and change the cluster from a control plane node, with the node's kubectl and etcdctl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import ProgramResult

# The readiness check without those of roles and priority classes, which exist since the cluster's first API server
# started. Where several servers start at once, these take seconds.
JOINED = (
    "/readyz?exclude=poststarthook/rbac/bootstrap-roles"
    "&exclude=poststarthook/scheduling/bootstrap-system-priority-classes"
)


def kubectl(machine: Machine, *words: str, timeout: float = 60) -> ProgramResult:
    """Run kubectl as the administrator."""
    kubeconfig = machine.path(kubernetes.ADMIN)
    return machine.run(["kubectl", "--kubeconfig", kubeconfig, "--request-timeout=20s", *words], timeout=timeout)


def etcdctl(machine: Machine, *words: str) -> ProgramResult:
    """Run etcdctl on this node's own member."""
    return machine.run(kubernetes.etcdctl(*words, root=machine.root))


def check(result: ProgramResult, what: str, reason: str = "kubernetes_api") -> ProgramResult:
    """Return ``result``. Raises `StepFailed` if the program's exit code is not 0."""
    if result.code != 0:
        raise StepFailed(reason, f"{what}: {result.complaint[-400:]}")
    return result


def _parse(result: ProgramResult, what: str) -> dict[str, Any]:
    check(result, what)
    value = result.json() if result.stdout.strip() else {}
    if value is None:
        raise StepFailed("kubernetes_api", f"{what}: the output is not JSON")
    return value if isinstance(value, dict) else {}


def get(machine: Machine, what: str, *words: str) -> dict[str, Any]:
    """Return the object or list of `kubectl get`. Raises `StepFailed`: ``what`` cannot be read."""
    return _parse(kubectl(machine, "get", *words, "-o", "json"), f"{what} cannot be read")


def etcd_members(machine: Machine) -> list[dict[str, Any]]:
    """Return the members of etcd, as `etcdctl member list -w json` prints them. Raises `StepFailed`."""
    listing = _parse(etcdctl(machine, "member", "list", "-w", "json"), "the etcd members cannot be read")
    return list(listing.get("members", []))


def apiserver_ready(machine: Machine) -> bool:
    """Return whether this node's own API server is ready."""
    return kubernetes.apiserver_ready(machine.root, machine.http_ok)


def etcd_healthy(machine: Machine) -> bool:
    """Return whether this node's own etcd is healthy."""
    return etcdctl(machine, "endpoint", "health").code == 0


def wait_for_api(machine: Machine, timeout: float, pause: float = 0.5) -> None:
    """Wait until the cluster's API responds by its name, which takes seconds after a start of all nodes or the loss of
    one. Raises `StepFailed`.
    """
    results: list[ProgramResult] = []

    def ready() -> bool:
        results[:] = [kubectl(machine, "get", "--raw=/readyz")]
        return results[0].code == 0

    if not wait.poll(ready, machine.now() + timeout, pause, machine.clock):
        check(results[0], f"the API does not respond within {timeout:g} s")


def node_names(machine: Machine) -> set[str]:
    """Return the names of the cluster's nodes. Raises `StepFailed`."""
    return {item["metadata"]["name"] for item in get(machine, "the list of nodes", "nodes").get("items", [])}


def is_ready(item: Mapping[str, Any]) -> bool:
    """Return whether a Node or Pod has the condition Ready."""
    conditions = item.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
