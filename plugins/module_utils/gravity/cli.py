"""Run Gravity's commands and act on their exit codes and error texts.

Formats: https://goteleport.com/gravity/docs (archived with the project).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node import program as programs
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import TIMED_OUT, ProgramResult

# Exit codes. 253: the service ended because its operation is complete.
DONE = (0, 253)
FINAL = {252: "gravity_precondition", 254: "gravity_aborted"}

_OPERATION = re.compile(r'operation[ (]+"?([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})')


class Rule(NamedTuple):
    """A pattern of Gravity's error texts, the reason to report, and a remedy to try first.

    Remedies: wait (run the command again later), resume (follow the running installer), clean (leave by force, then try
    again), stop (stop Gravity, then try again), or none.
    """

    text: str
    reason: str
    remedy: str = ""


# The first match counts.
RULES = (
    Rule(r"bad secret token", "gravity_token"),
    Rule(r"install token is too (short|long)", "gravity_input"),
    Rule(r"specified node role \S+ is not defined in the application manifest", "gravity_input"),
    Rule(r"server role \S+ not found", "gravity_input"),
    Rule(r"install flavor \S+ not found", "gravity_input"),
    Rule(r"matches none of the available addresses", "gravity_address"),
    Rule(r"One of existing servers already has hostname", "gravity_hostname"),
    Rule(r"server profile \S+ does not allow expansion", "gravity_fixed"),
    Rule(r"can only add one node at a time", "gravity_busy", "wait"),
    Rule(r"can't launch another expand while master node .* is joining", "gravity_busy", "wait"),
    Rule(r"can't join master node while another node is joining", "gravity_busy", "wait"),
    Rule(r"Waiting for another operation to complete at", "gravity_busy", "wait"),
    Rule(r"Cluster is degraded, waiting", "gravity_busy", "wait"),
    Rule(r"detected an active installer service in", "gravity_leftover", "resume"),
    Rule(r"detected previous installation state in", "gravity_leftover", "clean"),
    Rule(r"Detected local Gravity state on the node but the cluster is inaccessible", "gravity_orphan", "clean"),
    Rule(r"no running cluster detected", "gravity_orphan", "clean"),
    Rule(r"this server is not a part of the running cluster", "gravity_gone"),
    Rule(r"configured with advertise address .* not present on the machine", "gravity_moved"),
    Rule(r"Only single-node clusters can be reconfigured", "gravity_many_nodes"),
    Rule(r"This node is already using advertise address", "gravity_same_address"),
    Rule(r"Gravity appears to be running on this node", "gravity_running", "stop"),
    Rule(r"Gravity doesn't appear to be installed", "gravity_absent"),
    Rule(r"autojoin only supports AWS", "gravity_usage"),
    Rule(r"can be updated on active clusters only", "gravity_busy", "wait"),
    Rule(r"should be run as root", "gravity_usage"),
)
_UNKNOWN = Rule("", "")


def classify(text: str) -> Rule:
    """Return the rule that an output matches, a rule without reason for an unknown text."""
    plain = " ".join(text.split())
    return next((rule for rule in RULES if re.search(rule.text, plain)), _UNKNOWN)


def explain(lines: Sequence[str]) -> str:
    """Return the lines that state the cause, at most four: those marked as errors, else the last two."""
    marked = [line.split("[ERROR]:", 1)[1].strip() for line in lines if "[ERROR]:" in line]
    causes = marked or [line.strip() for line in lines if line.strip()][-2:]
    return "; ".join(dict.fromkeys(causes[-4:])) or "no output"


def operation_id(text: str) -> str:
    """Return the id of the operation that a command launched, "" if it launched none."""
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
    """Run a program and append its output to the file ``log``. Raises `StepFailed` if the program does not exist."""
    result = programs.run(argv, timeout=max(timeout, 0.05), secrets=secrets, log=log, append=True, cwd=cwd, data=data)
    if not result.started:
        raise StepFailed("gravity_absent", result.stderr)
    return result


def failure(command: str, result: ProgramResult, reason: str = "") -> StepFailed:
    """Return the error of a failed command; its reason is ``reason``, else that of the exit code or the text."""
    unknown = "gravity_timeout" if result.code == TIMED_OUT else "gravity_failed"
    reason = reason or FINAL.get(result.code) or classify(result.text).reason or unknown
    return StepFailed(reason, f"gravity {command}: {explain(result.lines)}", result.lines)


def confirmed(machine: GravityMachine, command: str, *, timeout: float, program: str = "") -> ProgramResult:
    """Run a command that would ask for confirmation. Raises `StepFailed` if it fails."""
    result = run([program or machine.program, command, "--confirm"], timeout=timeout, log=machine.log(command))
    if result.code not in DONE:
        raise failure(command, result)
    return result


def persist(
    machine: GravityMachine,
    command: str,
    argv: Sequence[str],
    *,
    deadline: float,
    secrets: Sequence[str] = (),
    cwd: str | None = None,
    accept: str = "",
) -> ProgramResult:
    """Run ``argv`` until it succeeds, with the remedies for Gravity's errors. Each remedy except waiting is tried once.

    An error with the reason ``accept`` means that there is nothing to do; its result is returned. Raises `StepFailed`
    for any other that no remedy fixes.
    """
    tried: set[str] = set()
    current = list(argv)
    while True:
        timeout = deadline - machine.now()
        result = run(current, timeout=timeout, secrets=secrets, log=machine.log(command), cwd=cwd)
        rule = classify(result.text)
        if result.code in DONE or (accept and rule.reason == accept):
            return result
        is_late = rule.remedy == "wait" and machine.now() + machine.pause >= deadline
        # A command that timed out was waiting without a limit of its own, for what its output states.
        if result.code in (TIMED_OUT, *FINAL) or not rule.remedy or rule.remedy in tried or is_late:
            raise failure(command, result)
        if rule.remedy == "wait":
            machine.clock.sleep(machine.pause)
            continue
        tried.add(rule.remedy)
        current = [argv[0], "resume"] if rule.remedy == "resume" else list(argv)
        if rule.remedy == "clean":
            leave_by_force(machine, deadline, argv[0])
        elif rule.remedy == "stop":
            confirmed(machine, "stop", timeout=deadline - machine.now(), program=argv[0])


def leave_by_force(machine: GravityMachine, deadline: float, program: str = "") -> None:
    """Remove Gravity from this node without involving the cluster. Raises `StepFailed`."""
    machine.unmark()
    argv = [program or machine.program, "leave", "--force", "--confirm"]
    result = run(argv, timeout=max(deadline - machine.now(), 1), log=machine.log("leave"))
    if result.code not in DONE and classify(result.text).reason not in ("gravity_gone", "gravity_orphan"):
        raise failure("leave", result, "gravity_leave")
