"""Ask a cluster of Gravity for its state, and wait until it is whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.gravity import cli
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import KUBECONFIG, GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node import files, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import TIMED_OUT


class Member(NamedTuple):
    """A node as the cluster has it. ``status``: healthy, degraded or offline; ``probes``: what failed."""

    hostname: str
    address: str
    role: str
    profile: str
    status: str
    probes: tuple[str, ...]


class Status(NamedTuple):
    """An answer of `gravity status`. Texts are empty where it said nothing; ``system`` is running, degraded or unknown.

    ``operations``: those that run, each ``{id, type, state}``; ``last``: the last that ended. ``token`` is a secret.
    """

    state: str
    system: str
    domain: str
    application: str
    version: str
    nodes: tuple[Member, ...]
    operations: tuple[dict[str, str], ...]
    last: dict[str, str]
    token: str

    def public(self) -> dict[str, Any]:
        """Return all but the token, as plain data."""
        return {
            "state": self.state,
            "system": self.system,
            "domain": self.domain,
            "application": self.application,
            "version": self.version,
            "nodes": [dict(node._asdict(), probes=list(node.probes)) for node in self.nodes],
            "operations": [dict(one) for one in self.operations],
            "last": dict(self.last),
        }


# Integers from Gravity 5.2 on, words before.
_SYSTEM = {"0": "unknown", "1": "running", "2": "degraded"}


def parse_status(text: str) -> Status:
    """Parse the answer of `gravity status --output=json` of any version. Raises `StepFailed` gravity_status
    for anything else.

    A degraded cluster answers with less: whatever is missing is empty.
    """
    try:
        found = json.loads(text)
        cluster = found["cluster"]
    except (ValueError, KeyError, TypeError):
        raise StepFailed("gravity_status", "gravity status gave no JSON of a cluster") from None
    if not isinstance(cluster, dict):
        raise StepFailed("gravity_status", "gravity status gave no JSON of a cluster")
    system = str(cluster.get("system_status", "")).lower()
    state = str(cluster.get("state") or "")
    application = cluster.get("application") or {}
    return Status(
        state=state,
        system=_SYSTEM.get(system, system) or ("degraded" if state == "degraded" else "unknown"),
        domain=str(cluster.get("domain") or ""),
        application=str(application.get("name") or ""),
        version=str(application.get("version") or ""),
        nodes=tuple(_member(node) for node in cluster.get("nodes") or []),
        operations=tuple(_operation(one) for one in cluster.get("active_operations") or []),
        last=_operation(cluster.get("operation") or {}),
        token=str((cluster.get("token") or {}).get("token") or ""),
    )


def _member(node: dict[str, Any]) -> Member:
    return Member(
        hostname=str(node.get("hostname") or ""),
        address=str(node.get("advertise_ip") or ""),
        role=str(node.get("role") or ""),
        profile=str(node.get("profile") or ""),
        status=str(node.get("status") or "").lower(),
        probes=tuple(str(probe) for probe in node.get("failed_probes") or ()),
    )


def _operation(one: dict[str, Any]) -> dict[str, str]:
    return {key: str(one[key]) for key in ("id", "type", "state") if one.get(key)}


def healthy_masters(status: Status) -> list[str]:
    """Return the addresses of the masters that are healthy. The first node of an answer may be neither."""
    return [node.address for node in status.nodes if node.role == "master" and node.status == "healthy"]


def member(status: Status, address: str) -> Member | None:
    """Return the node with this address."""
    return next((node for node in status.nodes if node.address == address), None)


def unhealthy(status: Status, addresses: Iterable[str] = (), *, only_nodes: bool = False) -> list[str]:
    """Return why the cluster is not whole, [] when it is: active, running, each of ``addresses`` there, every node
    healthy.

    ``only_nodes``: other nodes may be joining, so that only those of ``addresses`` count.
    """
    wanted = list(addresses)
    there = {node.address: node for node in status.nodes}
    missing = [f"{address} is not part of the cluster" for address in wanted if address not in there]
    for node in status.nodes:
        if node.status != "healthy" and (not only_nodes or node.address in wanted):
            missing.append(f"{node.address} is {node.status or 'unknown'}" + _because(node))
    if only_nodes:
        return missing
    if status.state != "active":
        missing.append(f"the cluster is {status.state or 'in no known state'}")
    if status.system != "running":
        missing.append(f"its system is {status.system}")
    return missing


def _because(node: Member) -> str:
    return f" ({'; '.join(node.probes[:3])})" if node.probes else ""


def read_status(program: str, timeout: float = 60) -> Status:
    """Ask Gravity. The answer counts and not the exit code, which is 255 for a degraded cluster. Raises
    `StepFailed`, with the reason of the text where Gravity gave one.
    """
    answer = cli.run([program, "status", "--output=json"], timeout=timeout)
    try:
        return parse_status(answer.stdout)
    except StepFailed:
        rule = cli.classify(answer.text)
        if answer.code == TIMED_OUT:
            raise StepFailed("gravity_timeout", f"gravity status did not answer in {timeout:g} s") from None
        reason = rule.reason if rule else "gravity_status"
        raise StepFailed(reason, f"gravity status: {cli.explain(answer.lines)}", answer.lines) from None


# --- waiting ---------------------------------------------------------------------------------------------------------


def wait_until_whole(
    ask: Callable[[], Status],
    addresses: Sequence[str],
    *,
    deadline: float,
    patience: int,
    pause: float,
    only_nodes: bool = False,
    clock: wait.Clock = wait.REAL,
) -> Status:
    """Ask until the cluster is whole. That it is degraded right after a join is passing: ``patience`` answers in a row
    may say so, and no more. Raises `StepFailed` gravity_degraded or gravity_timeout.
    """
    degraded = 0
    missing: list[str] = []

    def look() -> Status | None:
        nonlocal degraded
        try:
            status = ask()
        except StepFailed as error:
            # It answers nothing while its own services restart.
            degraded, missing[:] = 0, [str(error)]
            return None
        missing[:] = unhealthy(status, addresses, only_nodes=only_nodes)
        if not missing:
            return status
        degraded = degraded + 1 if status.system == "degraded" and not status.operations else 0
        if degraded > patience:
            raise StepFailed("gravity_degraded", f"{degraded} answers in a row: {'; '.join(missing)}")
        return None

    def late() -> StepFailed:
        return StepFailed("gravity_timeout", f"the cluster is not whole in time: {'; '.join(missing)}")

    return wait.until(look, deadline, late, pause, clock)


def until_whole(
    machine: GravityMachine, params: dict[str, Any], addresses: Sequence[str], only_nodes: bool = False
) -> Status:
    """Wait until the cluster of this node is whole. Raises `StepFailed`."""
    return wait_until_whole(
        lambda: read_status(machine.program),
        addresses,
        deadline=machine.now() + params["wait"],
        patience=params["patience"],
        pause=machine.pause,
        only_nodes=only_nodes,
        clock=machine.clock,
    )


def finish(machine: GravityMachine, params: dict[str, Any], only_nodes: bool = False) -> dict[str, Any]:
    """Wait until this node's cluster is whole, then record it. Raises `StepFailed`."""
    status = until_whole(machine, params, [params["address"]], only_nodes)
    own = member(status, params["address"])
    wanted = params.get("role", "")
    if own is not None and wanted and own.role != wanted:
        raise StepFailed(
            "gravity_role",
            f"Gravity made {params['address']} a {own.role}, wanted a {wanted}: the node type {own.profile} says so",
        )
    machine.mark({"address": params["address"], "node_type": params.get("node_type", ""), "role": wanted})
    return {"cluster": status.public()}


def follow(machine: GravityMachine, identity: str, deadline: float) -> None:
    """Poll the operation that a command launched and did not wait for (an empty ``identity``: it launched none) until
    it is completed. Raises `StepFailed` gravity_operation for one that failed, and gravity_timeout for one that stays
    silent or does not end.
    """
    last = "nothing"

    def is_completed() -> bool:
        nonlocal last
        answer = cli.run([machine.program, "status", "--quiet", f"--operation-id={identity}"], timeout=60)
        state = answer.stdout.strip()
        if state == "failed":
            raise StepFailed("gravity_operation", f"operation {identity} failed")
        last = state or cli.explain(answer.lines)
        return state == "completed"

    if identity:
        text = f"operation {identity} did not end in time; it says: "
        machine.until(is_completed, deadline, "gravity_timeout", lambda: text + last)


# --- this node -------------------------------------------------------------------------------------------------------


def look(machine: GravityMachine, address: str, timeout: float = 60) -> dict[str, Any]:
    """Return ``{state, healthy, cluster, masters, problem, marker, kubeconfig_digest}`` of the node with ``address``.

    state: ``absent`` (nothing of Gravity), ``member`` (the cluster has this address), ``moved`` (installed with another
    one, or stopped), ``partial`` (begun, no cluster). Reads only.
    """
    digest = files.digest(machine.path(KUBECONFIG))
    found: dict[str, Any] = {
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
        return found
    found["state"] = "moved" if machine.has_services() else "partial"
    try:
        status = read_status(machine.program, timeout)
    except StepFailed as error:
        found["problem"] = str(error)
        if error.reason == "gravity_moved":
            found["state"] = "moved"
        return found
    found["cluster"] = status.public()
    found["masters"] = healthy_masters(status)
    own = member(status, address)
    if own is not None:
        found.update(state="member", role=own.role, healthy=own.status == "healthy")
    elif status.nodes and not machine.has_services():
        found["state"] = "partial"
    return found


def version(machine: GravityMachine) -> tuple[int, ...]:
    """Return Gravity's own version as numbers, () when it prints none."""
    answer = cli.run([machine.program, "version", "-o", "json"], timeout=60)
    found = answer.json()
    text = str(found.get("version")) if isinstance(found, dict) else ""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
