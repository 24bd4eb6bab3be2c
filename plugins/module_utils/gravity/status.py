"""Query the state of a cluster of Gravity, and wait until it is healthy."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.gravity import cli
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import KUBECONFIG, GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import TIMED_OUT


@dataclasses.dataclass(frozen=True)
class Member:
    """A node of the cluster. ``status``: healthy, degraded or offline; ``probes``: those that failed."""

    address: str
    role: str
    profile: str
    status: str
    probes: list[str]


@dataclasses.dataclass(frozen=True)
class Status:
    """The output of `gravity status`. Missing texts are empty; ``system`` is running, degraded or unknown.

    ``operations``: those in progress, each ``{id, type, state}``. ``token`` is a secret.
    """

    state: str
    system: str
    version: str
    nodes: list[Member]
    operations: list[dict[str, str]]
    token: str

    def public(self) -> dict[str, Any]:
        """Return everything except the token, as plain data."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "token"}


# Integers since Gravity 5.2, words before.
_SYSTEM = {"0": "unknown", "1": "running", "2": "degraded"}


def parse_status(text: str) -> Status:
    """Parse the output of `gravity status --output=json` of any version; a degraded cluster leaves keys out.

    Raises `StepFailed` gravity_status for any other text.
    """
    try:
        cluster = json.loads(text)["cluster"]
    except (ValueError, KeyError, TypeError):
        cluster = None
    if not isinstance(cluster, dict):
        raise StepFailed("gravity_status", "gravity status printed no JSON document of a cluster")
    system = str(cluster.get("system_status", "")).lower()
    state = str(cluster.get("state") or "")
    return Status(
        state=state,
        system=_SYSTEM.get(system, system) or ("degraded" if state == "degraded" else "unknown"),
        version=str((cluster.get("application") or {}).get("version") or ""),
        nodes=[_member(node) for node in cluster.get("nodes") or []],
        operations=[
            {key: str(operation[key]) for key in ("id", "type", "state") if operation.get(key)}
            for operation in cluster.get("active_operations") or []
        ],
        token=str((cluster.get("token") or {}).get("token") or ""),
    )


def _member(node: dict[str, Any]) -> Member:
    return Member(
        address=str(node.get("advertise_ip") or ""),
        role=str(node.get("role") or ""),
        profile=str(node.get("profile") or ""),
        status=str(node.get("status") or "").lower(),
        probes=[str(probe) for probe in node.get("failed_probes") or ()],
    )


def healthy_masters(status: Status) -> list[str]:
    """Return the addresses of the healthy masters. The first node of a status may be neither."""
    return [node.address for node in status.nodes if node.role == "master" and node.status == "healthy"]


def member(status: Status, address: str) -> Member | None:
    """Return the node with this address."""
    return next((node for node in status.nodes if node.address == address), None)


def unhealthy(status: Status, addresses: Iterable[str] = (), *, only_nodes: bool = False) -> list[str]:
    """Return why the cluster is not healthy, [] if it is active and running, has all ``addresses``, and every node is
    healthy.

    ``only_nodes``: check only the nodes with ``addresses``, because others may be joining.
    """
    required = list(addresses)
    present = {node.address for node in status.nodes}
    problems = [f"{address} is not part of the cluster" for address in required if address not in present]
    for node in status.nodes:
        if node.status != "healthy" and (not only_nodes or node.address in required):
            probes = f" ({'; '.join(node.probes[:3])})" if node.probes else ""
            problems.append(f"{node.address} is {node.status or 'unknown'}{probes}")
    if only_nodes:
        return problems
    if status.state != "active":
        problems.append(f"the cluster is {status.state or 'in an unknown state'}")
    if status.system != "running":
        problems.append(f"its system is {status.system}")
    return problems


def read_status(program: str, timeout: float = 60) -> Status:
    """Run `gravity status`. Its output counts, not its exit code, which is 255 for a degraded cluster.

    Raises `StepFailed` with the reason of Gravity's error text if there is one.
    """
    result = cli.run([program, "status", "--output=json"], timeout=timeout)
    try:
        return parse_status(result.stdout)
    except StepFailed:
        if result.code == TIMED_OUT:
            raise StepFailed("gravity_timeout", f"gravity status printed nothing within {timeout:g} s") from None
        raise cli.failure("status", result, cli.classify(result.text).reason or "gravity_status") from None


# --- waiting ---------------------------------------------------------------------------------------------------------


def wait_until_healthy(
    machine: GravityMachine,
    params: dict[str, Any],
    addresses: Sequence[str],
    only_nodes: bool = False,
    read: Callable[[str], Status] = read_status,
) -> Status:
    """Wait until the cluster of this node is healthy. Raises `StepFailed` gravity_degraded or gravity_timeout.

    A cluster is degraded for a while after a join: up to ``params["patience"]`` consecutive results may be so.
    """
    degraded = 0
    problems: list[str] = []

    def check() -> Status | None:
        nonlocal degraded
        try:
            status = read(machine.program)
        except StepFailed as error:
            # Gravity's own services are restarting.
            degraded, problems[:] = 0, [str(error)]
            return None
        problems[:] = unhealthy(status, addresses, only_nodes=only_nodes)
        if not problems:
            return status
        degraded = degraded + 1 if status.system == "degraded" and not status.operations else 0
        if degraded > params["patience"]:
            raise StepFailed("gravity_degraded", f"{degraded} consecutive results: {'; '.join(problems)}")
        return None

    text = "the cluster did not become healthy in time: "
    return machine.until(check, machine.now() + params["wait"], "gravity_timeout", lambda: text + "; ".join(problems))


def finish(machine: GravityMachine, params: dict[str, Any], only_nodes: bool = False) -> dict[str, Any]:
    """Wait until this node's cluster is healthy, then record the node as finished. Raises `StepFailed`."""
    status = wait_until_healthy(machine, params, [params["address"]], only_nodes)
    node = member(status, params["address"])
    role = params.get("role", "")
    if node is not None and role and node.role != role:
        raise StepFailed(
            "gravity_role",
            f"Gravity made {params['address']} a {node.role} instead of a {role}, because its node type is "
            f"{node.profile}",
        )
    machine.mark({"address": params["address"], "node_type": params.get("node_type", ""), "role": role})
    return {"cluster": status.public()}


def follow(machine: GravityMachine, identity: str, deadline: float) -> None:
    """Wait until the operation that a command launched in the background is completed; "": it launched none.

    Raises `StepFailed`: gravity_operation if it failed, gravity_timeout if it does not complete in time.
    """
    reported = "nothing"

    def is_completed() -> bool:
        nonlocal reported
        result = cli.run([machine.program, "status", "--quiet", f"--operation-id={identity}"], timeout=60)
        state = result.stdout.strip()
        if state == "failed":
            raise StepFailed("gravity_operation", f"operation {identity} failed")
        reported = state or cli.explain(result.lines)
        return state == "completed"

    if identity:
        text = f"operation {identity} did not complete in time; last status: "
        machine.until(is_completed, deadline, "gravity_timeout", lambda: text + reported)


# --- this node -------------------------------------------------------------------------------------------------------


def node_state(machine: GravityMachine, address: str) -> dict[str, Any]:
    """Return ``{state, healthy, role, cluster, masters, problem, marker, kubeconfig_digest}`` of this node.

    state: ``absent`` (nothing of Gravity), ``member`` (``address`` is part of the cluster), ``moved`` (installed with
    another address, or stopped), ``partial`` (an installation that was not finished).
    """
    digest = files.digest(machine.path(KUBECONFIG))
    result: dict[str, Any] = {
        "state": "absent",
        "healthy": False,
        "role": "",
        "cluster": {},
        "masters": [],
        "problem": "",
        "marker": machine.marker(),
        "kubeconfig_digest": digest and "sha256:" + digest,
    }
    if not machine.has_state():
        return result
    result["state"] = "moved" if machine.has_services() else "partial"
    try:
        status = read_status(machine.program)
    except StepFailed as error:
        result["problem"] = str(error)
        if error.reason == "gravity_moved":
            result["state"] = "moved"
        return result
    result.update(cluster=status.public(), masters=healthy_masters(status))
    node = member(status, address)
    if node is not None:
        result.update(state="member", role=node.role, healthy=node.status == "healthy")
    return result


def version(machine: GravityMachine) -> tuple[int, ...]:
    """Return Gravity's own version as numbers, () if it prints none."""
    document = cli.run([machine.program, "version", "-o", "json"], timeout=60).json()
    text = str(document.get("version")) if isinstance(document, dict) else ""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
