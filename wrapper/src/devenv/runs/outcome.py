"""The outcome of a run of ansible-playbook, derived from its events."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from devenv.runs.progress import result_of, stage_of

_ANSIBLE_ERROR = re.compile(r"(\[ERROR\]:|ERROR!|ansible-playbook: error:)\s*(.*)")
NO_CODE = 250  # of ansible-playbook, if it did not exit on its own
_KILLED = "ansible-playbook was killed; if the machine ran out of memory, dmesg shows it"
_NO_HOSTS = "--limit leaves us with no hosts to target"  # ansible/cli/__init__.py
_STAGE = "devenv.lab.stage"
_REASON = re.compile(r"\[([a-z][a-z0-9_]*)\]\s*$")
_INVENTORY = re.compile(r"Failed to parse inventory with '\S+\.inventory\.profile' plugin: (.*?\[[a-z][a-z0-9_]*\])")


@dataclass
class RunOutcome:
    """How a run ended. ``code`` is ansible-playbook's exit code; ``signal`` the number of the signal that interrupted
    it, or 0; ``failure`` has the keys of failure.json; ``stage`` and ``task`` are the last ones; ``results``
    counts successful tasks, ``staged`` is whether a stage began or ended; ``output`` is the end of
    Ansible's output, in lines.
    """

    run_id: str
    code: int = 0
    signal: int = 0
    timed_out: bool = False
    changed: int = 0
    seconds: float = 0.0
    failure: dict[str, Any] | None = None
    stage: str = ""
    task: str = ""
    results: int = 0
    staged: bool = False
    output: Sequence[str] = ()
    # The last failure of each host. An earlier one was rescued, otherwise the host would not have continued.
    failures: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        return self.code == 0 and not self.signal and not self.timed_out


def apply(outcome: RunOutcome, event: Mapping[str, Any]) -> None:
    """Update the outcome from one event of ansible-runner."""
    data = event.get("event_data") or {}
    name = event.get("event")
    if name in ("playbook_on_play_start", "playbook_on_task_start"):
        outcome.stage = stage_of(str(data.get("play") or ""))
        outcome.task = str(data.get("task") or "")
    if name == "runner_on_ok":
        outcome.results += 1
        outcome.staged |= data.get("task_action") == _STAGE
    if name == "playbook_on_stats":
        outcome.changed = sum(int(count) for count in (data.get("changed") or {}).values())
    if name == "runner_on_unreachable" or (name == "runner_on_failed" and not data.get("ignore_errors")):
        outcome.failures[str(data.get("host"))] = _failure(data, unreachable=name == "runner_on_unreachable")


def _failure(data: Mapping[str, Any], *, unreachable: bool) -> dict[str, Any]:
    """Return the event of a failed task in the form of failure.json."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons
    from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact

    result, stage = result_of(data), stage_of(str(data.get("play") or ""))
    reason = reasons.catalogue().get(str(result.get("devenv_reason") or "")) or reasons.of_stage(stage)
    message = redact(str(result.get("msg") or result.get("stderr") or result.get("stdout") or "no message").strip())
    return {
        "stage": stage,
        "reason": reason.id,
        "exit": reason.exit,
        "message": f"unreachable: {message}" if unreachable else message,
        "advice": str(result.get("devenv_advice") or reason.advice),
        "host": data.get("host"),
        "task": data.get("task"),
        "file": data.get("task_path"),
    }


def finish(outcome: RunOutcome, code: int, error: Exception | None, output: list[str]) -> None:
    """Complete the outcome: ansible-playbook exited with ``code``; ``output`` is the end of its output."""
    outcome.code, outcome.output = code, output
    if outcome.code != 0:
        text = [_KILLED] if code == NO_CODE and error is None else output
        outcome.failure = next(iter(outcome.failures.values()), None) or _without_task(text, error)


def _without_task(output: Sequence[str], error: Exception | None) -> dict[str, Any]:
    """Return the failure of a run that failed before any task: a wrong argument, a rejected inventory."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons

    lines = [line.strip() for line in output if line.strip()]
    reported = [(number, match) for number, line in enumerate(lines) if (match := _ANSIBLE_ERROR.match(line))]
    usage = next((match[2] for _, match in reported if match[1].endswith("error:")), "")
    text = usage or " ".join([reported[0][1][2], *lines[reported[0][0] + 1 :]] if reported else lines[-3:])
    text = text or (str(error) if error else "ansible-playbook printed nothing")
    refused = _INVENTORY.search(" ".join(lines))
    text = refused[1] if refused else text
    match = _REASON.search(text)
    known = match.group(1) if match else ""
    if _NO_HOSTS in text:
        known, text = "selection_empty", "--limit matches no host of the inventory"
    reason = reasons.catalogue().get(known)
    return {
        "stage": "",
        "reason": reason.id if reason else "",
        "exit": reason.exit if reason else 2 if usage else 1,
        "message": _REASON.sub("", text).strip() if reason else text,
        "advice": reason.advice if reason else "",
        "host": None, "task": None, "file": None,
    }  # fmt: skip
