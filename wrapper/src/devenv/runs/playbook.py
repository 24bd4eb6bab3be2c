"""Run one of the collection's playbooks for an environment, and raise an exception of devenv.errors if it fails."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import runs

from devenv import errors
from devenv.runs import extra_vars, inherited, prompts, runner
from devenv.runs.history import LOG
from devenv.runs.outcome import RunOutcome
from devenv.runs.runner import NO_OPTIONS, Options

# Extra variables that have an option or argument: two sources could contradict each other without notice.
RESERVED = {
    "profile": "--profile",
    "devenv_name": "--name",
    "devenv_overrides": "--set",
    "devenv_timeout": "--timeout",
    "devenv_artifacts": "--artifacts",
    "devenv_full": "--full",
    "devenv_gather": "--no-gather",
    "devenv_recreate": "--recreate",
    "devenv_snapshot": "--snapshot",
    "devenv_ttl": "--ttl",
    "devenv_provider": "--provider",
    "devenv_engine": "--engine",
    "devenv_kubernetes_version": "--kubernetes",
}


# Reasons of interrupted runs.
_SIGNALS: Mapping[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung_up"}


@dataclass(frozen=True)
class RunResult:
    """A successful run. ``changed`` counts changed tasks over all hosts; ``text`` is a message for the user.

    ``partial`` is empty if the run's own record has every stage on every node. Otherwise it is what the run did
    instead: the lines that a partial run, or an option such as --list-tasks, ends with.
    """

    name: str
    changed: int = 0
    seconds: float = 0.0
    run_dir: Path | None = None
    text: str = ""
    partial: Sequence[str] = ()
    checks: Sequence[Mapping[str, Any]] = ()


def run(playbook: str, name: str, variables: Mapping[str, Any], options: Options = NO_OPTIONS) -> RunResult:
    """Run one of the collection's playbooks for the environment ``name``. Raises Error and Interrupted."""
    extra = {
        "devenv_timeout": int(options.timeout) if options.timeout else None,
        "devenv_artifacts": str(options.artifacts.absolute()) if options.artifacts else None,
    }
    given = {"devenv_name": name, **variables, **{key: value for key, value in extra.items() if value}}
    outcome = _run(playbook, given, options)
    run_dir = runs.find(paths.environment(name), outcome.run_id)
    if outcome.ok:
        return RunResult(
            name,
            outcome.changed,
            outcome.seconds,
            run_dir,
            partial=() if options.check else _partial(name, outcome, run_dir),
        )
    raise _failure(name, outcome, run_dir, options)


def run_here(playbook: str, variables: Mapping[str, Any], options: Options = NO_OPTIONS) -> RunResult:
    """Run a playbook that works on this machine, without an environment. Raises Error and Interrupted."""
    outcome = _run(playbook, variables, options)
    if outcome.ok:
        return RunResult("", outcome.changed, outcome.seconds)
    if outcome.signal:
        raise errors.Interrupted(128 + outcome.signal)
    if outcome.timed_out:
        raise _timed_out(outcome, {}, None, options)
    raise errors.from_failure(outcome.failure or {"message": "ansible-playbook printed nothing"})


def _run(playbook: str, variables: Mapping[str, Any], options: Options) -> RunOutcome:
    """Run a playbook, after the checks of what the user typed."""
    prompts.refuse(options.arguments)
    inherited.check_passed(options.ansible_env)
    check_variables(options)
    return runner.run(playbook, variables, options)


@errors.translated()
def check_variables(options: Options) -> dict[str, Any]:
    """Return the extra variables of a run: of ``-e``, its files, and the arguments after ``--``.

    Raise UsageError for one that has an option of its own, or that no role has (variables/check.py). The playbooks
    check the latter, too; here it saves the start of Ansible.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.variables import check

    typed = [extra_vars.read(value, encrypted={}) for value in extra_vars.in_arguments(options.arguments)]
    for item in options.extra:
        typed.append(extra_vars.read(f"@{item}", encrypted={}) if isinstance(item, Path) else item)
    for key in (key for item in typed for key in item):
        if key in RESERVED:
            raise errors.UsageError(f"-e does not accept {key}", where=f"-e {key}", advice=f"use {RESERVED[key]}")
    variables = {key: value for item in typed for key, value in item.items()}
    check.require(variables)
    return variables


def _partial(name: str, outcome: RunOutcome, run_dir: Path | None) -> Sequence[str]:
    """Return the last lines of a run that may have left out something; empty for a complete one."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.records import selection

    if not outcome.results:
        # Ansible printed something instead of running, for example a list of the tasks.
        return [*outcome.output, f"{name}: nothing was done"]
    summary = files.read_json(run_dir / "summary.json", dict) if run_dir else None
    if summary is not None:
        return () if summary.get("complete") else [selection.closing_line(summary)]
    if outcome.staged:
        return [f"{name}: checked only, or not recorded; devenv status -n {name} shows its state"]
    return ()


def _failure(name: str, outcome: RunOutcome, run_dir: Path | None, options: Options) -> BaseException:
    log = _log(name, outcome, run_dir)
    # The record callback's failure.json has more details than the events.
    recorded = files.read_json(run_dir / "failure.json", dict) if run_dir else None
    if run_dir is not None:
        _complete_record(name, outcome, options)
    # A signal that interrupted only the gathering after a failure does not replace the failure.
    if outcome.signal and "gather_trouble" not in (recorded or {}):
        return errors.Interrupted(128 + outcome.signal, log)
    if outcome.timed_out:
        return _timed_out(outcome, recorded or {}, log, options)
    return errors.from_failure(recorded or outcome.failure or {"message": "ansible-playbook printed nothing"}, log)


def _complete_record(name: str, outcome: RunOutcome, options: Options) -> None:
    """Write what the killed Ansible of a run could not write; an error must not replace the run's own."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
    from ansible_collections.devenv.lab.plugins.plugin_utils.records import killed

    reason = _SIGNALS.get(outcome.signal, "time_over" if outcome.timed_out else "unexpected")
    with contextlib.suppress(OSError, ValueError, KeyError, DevenvError):
        killed.complete(paths.environment(name), outcome.run_id, reason, options.command)


def _timed_out(outcome: RunOutcome, recorded: Mapping[str, Any], log: Path | None, options: Options) -> errors.Error:
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons

    missing = recorded.get("message") if recorded.get("reason") != "interrupted" else None
    return errors.make(
        f"not done within {options.timeout:g} s, stopped at: {outcome.task or 'the start'}"
        + (f": {missing}" if missing else ""),
        exit_code=reasons.stages().get(outcome.stage, 1),
        reason="time_over",
        stage=outcome.stage,
        advice=reasons.catalogue()["time_over"].advice,
        log=log,
    )


def _log(name: str, outcome: RunOutcome, run_dir: Path | None) -> Path | None:
    """Return the run's log. If the run ended before the collection could write one, write Ansible's output."""
    if run_dir is not None:
        return run_dir / LOG
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import redact

    if not outcome.output or (outcome.failure or {}).get("exit") in (2, 9, 10, 14):
        return None
    folder = paths.home() / "history" / name / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{outcome.run_id}"
    with contextlib.suppress(OSError):
        files.write(folder / LOG, redact.redact("\n".join(outcome.output)) + "\n")
        return folder / LOG
    return None
