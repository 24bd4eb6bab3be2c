"""Run Gravity's commands: what its exit codes and error texts mean, and what is done about them.

Formats: https://goteleport.com/gravity/docs (archived with the project).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node import program as programs
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import TIMED_OUT, ProgramResult

# Exit codes. A service that ended since its operation is complete is no error.
COMPLETED = 253
ABORTED = 254
PRECONDITION = 252
DONE = (0, COMPLETED)

_OPERATION = re.compile(r'operation[ (]+"?([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})')


class Rule(NamedTuple):
    """A text of Gravity's and what it means. ``kind`` says what is done, ``reason`` what is reported when that did
    not help."""

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
    """Return the rule that ``text`` (an output) matches, None when Gravity printed something else."""
    plain = " ".join(text.split())
    return next((rule for rule in RULES if re.search(rule.text, plain)), None)


def explain(lines: Sequence[str]) -> str:
    """Return the lines that say why, at most four: those marked as errors, else the last."""
    marked = [line.split("[ERROR]:", 1)[1].strip() for line in lines if "[ERROR]:" in line]
    said = marked or [line.strip() for line in lines if line.strip()][-2:]
    return "; ".join(dict.fromkeys(said[-4:])) or "it said nothing"


def operation_id(text: str) -> str:
    """Return the id of the operation that a command launched, "" when it named none."""
    match = _OPERATION.search(text)
    return match.group(1) if match else ""


# --- commands --------------------------------------------------------------------------------------------------------


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


def persist(
    machine: GravityMachine,
    action: str,
    argv: Sequence[str],
    *,
    deadline: float,
    secrets: Sequence[str] = (),
    cwd: str | None = None,
    accept: str = "",
) -> ProgramResult:
    """Run ``argv`` and do what Gravity's errors ask for: wait while the cluster is busy, resume, clean what an earlier
    try left, stop what runs. Each remedy but waiting is tried once. An error with the reason ``accept`` says that
    there is nothing to do.

    Raises `StepFailed` with the reason of the last text.
    """
    tried: set[str] = set()
    log = machine.log(action)
    command = list(argv)
    while True:
        left = deadline - machine.now()
        answer = run(command, timeout=left, secrets=secrets, log=log, cwd=cwd)
        if answer.code in DONE:
            return answer
        rule = classify(answer.text)
        kind = rule.kind if rule else "fail"
        if rule is not None and rule.reason == accept:
            return answer
        told = f"gravity {action}: {explain(answer.lines)}"
        if answer.code == TIMED_OUT:
            # It waits for ever by itself: what it waits for is the reason.
            raise StepFailed(rule.reason if rule else "gravity_timeout", told, answer.lines)
        if answer.code == PRECONDITION:
            raise StepFailed("gravity_precondition", told, answer.lines)
        if answer.code == ABORTED:
            raise StepFailed("gravity_aborted", told, answer.lines)
        if kind == "wait" and machine.now() + machine.pause < deadline:
            machine.clock.sleep(machine.pause)
            continue
        remedy = REMEDIES.get(kind)
        if remedy is None or kind in tried:
            raise StepFailed(rule.reason if rule else "gravity_failed", told, answer.lines)
        tried.add(kind)
        command = remedy(machine, list(argv), deadline, cwd)


def _resume(machine: GravityMachine, argv: list[str], deadline: float, cwd: str | None) -> list[str]:
    # The installer that runs already goes on; it is asked to show its end.
    return [argv[0], "resume"]


def _clean(machine: GravityMachine, argv: list[str], deadline: float, cwd: str | None) -> list[str]:
    leave_by_force(machine, deadline, argv[0])
    return argv


def _stop(machine: GravityMachine, argv: list[str], deadline: float, cwd: str | None) -> list[str]:
    left = deadline - machine.now()
    check(run([argv[0], "stop", "--confirm"], timeout=left, log=machine.log("stop")), "stop")
    return argv


REMEDIES: dict[str, Callable[[GravityMachine, list[str], float, str | None], list[str]]] = {
    "resume": _resume,
    "clean": _clean,
    "stop": _stop,
}


def check(answer: ProgramResult, what: str) -> ProgramResult:
    if answer.code not in DONE:
        rule = classify(answer.text)
        reason = rule.reason if rule else "gravity_failed"
        raise StepFailed(reason, f"gravity {what}: {explain(answer.lines)}", answer.lines)
    return answer


def leave_by_force(machine: GravityMachine, deadline: float, program: str = "") -> None:
    """Take off what is left of Gravity here; the cluster, if there is one, is not told. Raises `StepFailed`."""
    machine.unmark()
    argv = [program or machine.program, "leave", "--force", "--confirm"]
    answer = run(argv, timeout=max(deadline - machine.now(), 1), log=machine.log("leave"))
    rule = classify(answer.text)
    if answer.code not in DONE and (rule is None or rule.reason not in ("gravity_gone", "gravity_orphan")):
        raise StepFailed("gravity_leave", f"gravity leave: {explain(answer.lines)}", answer.lines)
