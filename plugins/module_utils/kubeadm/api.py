"""Ask and change the cluster from a control plane node, with the programs that are on it: kubectl and etcdctl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import ProgramResult

# Ready but for looks at roles and priority classes that a cluster has had since its first API server started: seconds,
# where several start at once.
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
    """Return ``result``. Raises `StepFailed` when the program did not end with 0."""
    if result.code != 0:
        raise StepFailed(reason, f"{what}: {result.complaint[-400:]}")
    return result


def parse(result: ProgramResult, what: str) -> dict[str, Any]:
    """Return the JSON object that a program printed. Raises `StepFailed`."""
    check(result, what)
    value = result.json() if result.stdout.strip() else {}
    if value is None:
        raise StepFailed("kubernetes_api", f"{what}: the answer is not JSON")
    return value if isinstance(value, dict) else {}


def apiserver_ready(machine: Machine) -> bool:
    """Return whether this node's own API server is ready."""
    return kubernetes.apiserver_ready(machine.root, machine.http_ok)


def etcd_healthy(machine: Machine) -> bool:
    """Return whether this node's own etcd is healthy."""
    return etcdctl(machine, "endpoint", "health").code == 0


def wait_for_api(machine: Machine, timeout: float, pause: float = 0.5) -> None:
    """Wait until the cluster's API answers by its name: after a start of all nodes, or the loss of one, it takes some
    seconds. Raises `StepFailed`.
    """
    answers: list[ProgramResult] = []

    def ready() -> bool:
        answers[:] = [kubectl(machine, "get", "--raw=/readyz")]
        return answers[0].code == 0

    if not wait.poll(ready, machine.now() + timeout, pause, machine.clock):
        check(answers[0], f"the API does not answer within {timeout:g} s")


def node_names(machine: Machine) -> set[str]:
    """Return the names of the cluster's nodes. Raises `StepFailed`."""
    listed = parse(kubectl(machine, "get", "nodes", "-o", "json"), "nodes cannot be listed")
    return {item["metadata"]["name"] for item in listed.get("items", [])}


def is_ready(item: Mapping[str, Any]) -> bool:
    """Return whether a Node or Pod has the condition Ready."""
    conditions = item.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
