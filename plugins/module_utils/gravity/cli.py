"""What Gravity says, and what it means: exit codes, texts of errors, the answer of `gravity status`, operations.

Formats: https://goteleport.com/gravity/docs (archived with the project). ``gravity_node`` has what is done with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.node import program as programs
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import ProgramResult
from ansible_collections.devenv.lab.plugins.module_utils.node.wait import REAL, Clock

# Exit codes. A service that ended since its operation is complete is no error.
COMPLETED = 253
ABORTED = 254
PRECONDITION = 252
DONE = (0, COMPLETED)

TAIL = 40  # lines of an output in a result

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OPERATION = re.compile(r'operation[ (]+"?([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})')


# --- texts of errors -------------------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """A text of Gravity's and what it means. ``kind`` says what is done, ``reason`` how it is told when that did not
    help."""

    text: str
    kind: str
    reason: str


# The first that matches holds. Kinds: wait (ask again), token (read it anew), resume, clean (leave --force, try again),
# done (it is as it should be), stop (stop, try again), fail.
RULES = (
    Rule(r"bad secret token", "token", "gravity_token"),
    Rule(r"install token is too (short|long)", "fail", "gravity_input"),
    Rule(r"specified node role \S+ is not defined in the application manifest", "fail", "gravity_input"),
    Rule(r"server role \S+ not found", "fail", "gravity_input"),
    Rule(r"install flavor \S+ not found", "fail", "gravity_input"),
    Rule(r"matches none of the available addresses", "fail", "gravity_address"),
    Rule(r"One of existing servers already has hostname", "fail", "gravity_hostname"),
    Rule(r"server profile \S+ does not allow expansion", "fail", "gravity_fixed"),
    Rule(r"can only add one node at a time", "wait", "gravity_busy"),
    Rule(r"can't launch another expand while master node .* is joining", "wait", "gravity_busy"),
    Rule(r"can't join master node while another node is joining", "wait", "gravity_busy"),
    Rule(r"Waiting for another operation to complete at", "wait", "gravity_busy"),
    Rule(r"Cluster is degraded, waiting", "wait", "gravity_busy"),
    Rule(r"detected an active installer service in", "resume", "gravity_leftover"),
    Rule(r"detected previous installation state in", "clean", "gravity_leftover"),
    Rule(
        r"Detected local Gravity state on the node but the cluster is inaccessible|no running cluster detected",
        "clean",
        "gravity_orphan",
    ),
    Rule(r"this server is not a part of the running cluster", "done", "gravity_gone"),
    Rule(r"configured with advertise address .* not present on the machine", "moved", "gravity_moved"),
    Rule(r"Only single-node clusters can be reconfigured", "fail", "gravity_many_nodes"),
    Rule(r"This node is already using advertise address", "done", "gravity_same_address"),
    Rule(r"Gravity appears to be running on this node", "stop", "gravity_running"),
    Rule(r"Gravity doesn't appear to be installed", "fail", "gravity_absent"),
    Rule(r"autojoin only supports AWS", "fail", "gravity_usage"),
    Rule(r"can be updated on active clusters only", "wait", "gravity_busy"),
    Rule(r"should be run as root", "fail", "gravity_usage"),
)


def classify(text: str) -> Rule | None:
    """The rule that ``text`` (an output) matches, None when Gravity said something else."""
    plain = " ".join(_COLOUR.sub("", text).split())
    return next((rule for rule in RULES if re.search(rule.text, plain)), None)


def explain(lines: Sequence[str]) -> str:
    """The lines that say why, at most four: those marked as errors, else the last."""
    marked = [line.split("[ERROR]:", 1)[1].strip() for line in lines if "[ERROR]:" in line]
    said = marked or [line.strip() for line in lines if line.strip()][-2:]
    return "; ".join(dict.fromkeys(said[-4:])) or "it said nothing"


# --- programs --------------------------------------------------------------------------------------------------------


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    secrets: Sequence[str] = (),
    log: str = "",
    cwd: str | None = None,
    data: str | None = None,
) -> ProgramResult:
    """Run a program; its output goes to the end of the file ``log``. Raises `StepFailed` for a program that is not
    there.
    """
    result = programs.run(argv, timeout=max(timeout, 0.05), secrets=secrets, log=log, append=True, cwd=cwd, data=data)
    if not result.started:
        raise StepFailed("gravity_absent", result.stderr)
    return result


# --- status ----------------------------------------------------------------------------------------------------------


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
        """All but the token, as plain data."""
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
    """The answer of `gravity status --output=json` of any version. Raises `StepFailed` gravity_status for anything
    else.

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
    """Addresses of the masters that are healthy. The first node of an answer may be neither."""
    return [node.address for node in status.nodes if node.role == "master" and node.status == "healthy"]


def member(status: Status, address: str) -> Member | None:
    """The node with this address."""
    return next((node for node in status.nodes if node.address == address), None)


def unhealthy(status: Status, addresses: Iterable[str] = (), *, only_nodes: bool = False) -> list[str]:
    """Why the cluster is not whole, [] when it is: active, running, each of ``addresses`` there, every node healthy.

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
    """Ask. The answer counts and not the exit code, which is 255 for a degraded cluster. Raises `StepFailed`, with the
    reason of the text where Gravity gave one.
    """
    answer = run([program, "status", "--output=json"], timeout=timeout)
    try:
        return parse_status(answer.stdout)
    except StepFailed:
        rule = classify(answer.text)
        if answer.code == 124:
            raise StepFailed("gravity_timeout", f"gravity status did not answer in {timeout:g} s") from None
        reason = rule.reason if rule else "gravity_status"
        raise StepFailed(reason, f"gravity status: {explain(answer.lines)}", answer.lines) from None


# --- waiting ---------------------------------------------------------------------------------------------------------


def rest(clock: Clock, pause: float, deadline: float, reason: str, text: str) -> None:
    """Sleep before the next look. Raises `StepFailed` with ``reason`` and ``text`` when that is past ``deadline``."""
    if clock.now() + pause > deadline:
        raise StepFailed(reason, text)
    clock.sleep(pause)


def wait_until_whole(
    ask: Callable[[], Status],
    addresses: Sequence[str],
    *,
    deadline: float,
    patience: int,
    pause: float,
    only_nodes: bool = False,
    clock: Clock = REAL,
) -> Status:
    """Ask until the cluster is whole. That it is degraded right after a join is passing: ``patience`` answers in a row
    may say so, and no more. Raises `StepFailed` gravity_degraded or gravity_timeout.
    """
    degraded = 0
    while True:
        missing, status = _look(ask, addresses, only_nodes)
        if status is not None and not missing:
            return status
        if status is not None and status.system == "degraded" and not status.operations:
            degraded += 1
            if degraded > patience:
                raise StepFailed("gravity_degraded", f"{degraded} answers in a row: {'; '.join(missing)}")
        else:
            degraded = 0
        rest(clock, pause, deadline, "gravity_timeout", f"the cluster is not whole in time: {'; '.join(missing)}")


def _look(ask: Callable[[], Status], addresses: Sequence[str], only_nodes: bool) -> tuple[list[str], Status | None]:
    try:
        status = ask()
    except StepFailed as error:
        # It answers nothing while its own services start anew.
        return [str(error)], None
    return unhealthy(status, addresses, only_nodes=only_nodes), status


def operation_id(text: str) -> str:
    """Id of the operation that a command launched, "" when it named none."""
    match = _OPERATION.search(_COLOUR.sub("", text))
    return match.group(1) if match else ""


def wait_for_operation(
    program: str, identity: str, *, deadline: float, pause: float, clock: Clock = REAL, timeout: float = 60
) -> None:
    """Poll an operation by its id until it is completed. Raises `StepFailed` gravity_operation for one that failed, and
    gravity_timeout for one that stays silent or does not end.
    """
    last = "nothing"
    while True:
        answer = run([program, "status", "--quiet", f"--operation-id={identity}"], timeout=timeout)
        state = answer.stdout.strip()
        if state == "completed":
            return
        if state == "failed":
            raise StepFailed("gravity_operation", f"operation {identity} failed")
        last = state or explain(answer.lines)
        rest(clock, pause, deadline, "gravity_timeout", f"operation {identity} did not end in time; it says: {last}")
