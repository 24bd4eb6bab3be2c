"""Run one of the collection's playbooks for an environment, and raise what devenv.errors has for its failure."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import runs

from devenv import errors
from devenv.runs import runner
from devenv.runs.history import LOG
from devenv.runs.outcome import RunOutcome
from devenv.runs.supervision import Watcher

# Extra variables that have an option or argument of their own: two sources would contradict each other silently.
RESERVED = {
    "profile": "--profile",
    "devenv_name": "--name",
    "devenv_overrides": "--set",
    "devenv_timeout": "--timeout",
    "devenv_artifacts": "--artifacts",
    "devenv_full": "--full",
    "devenv_gather": "--no-gather",
    "devenv_snapshot": "--snapshot",
    "devenv_kubernetes_version": "--kubernetes or --set kubernetes.version",
}


@dataclass(frozen=True)
class Options:
    """Options of a run: those of ansible-playbook, and those that every run has.

    ``timeout`` is in seconds; ``extra`` is what extra_vars.parse returns; ``arguments`` goes to ansible-playbook
    unread; ``full`` runs every stage.
    """

    extra: Sequence[Mapping[str, Any] | Path] = ()
    tags: str = ""
    limit: str = ""
    check: bool = False
    diff: bool = False
    verbosity: int = 0
    forks: int = 0
    timeout: float | None = None
    artifacts: Path | None = None
    arguments: Sequence[str] = ()
    command: str = ""
    full: bool = False

    @property
    def complete(self) -> bool:
        """Whether a run with these options does all that a run of the same profile does, and nothing else."""
        return not (self.extra or self.tags or self.limit or self.check or self.arguments)

    @property
    def shown(self) -> bool:
        """Whether somebody wants to see the stages, or has to have them."""
        return bool(self.full or self.diff or self.verbosity or self.artifacts or os.environ.get("ARTIFACT_DIR"))

    def ansible_arguments(self) -> list[str]:
        """Arguments of ansible-playbook that these options stand for."""
        flags = [flag for flag, wanted in (("--check", self.check), ("--diff", self.diff)) if wanted]
        valued = [("--tags", self.tags), ("--limit", self.limit), ("--forks", str(self.forks) if self.forks else "")]
        return [*flags, *(word for flag, value in valued if value for word in (flag, value)), *self.arguments]


@dataclass(frozen=True)
class RunResult:
    """A run that came to its end. ``changed`` counts changed tasks over all hosts."""

    name: str
    changed: int = 0
    seconds: float = 0.0
    run_dir: Path | None = None
    text: str = ""
    checks: Sequence[Mapping[str, Any]] = ()


def run(
    playbook: str, name: str, variables: Mapping[str, Any], options: Options, watcher: Watcher | None = None
) -> RunResult:
    """Run one of the collection's playbooks for the environment ``name``. Raises Error and Interrupted."""
    _refuse_reserved(options.extra)
    request = runner.Request(
        playbook=playbook,
        variables={"devenv_name": name, **variables, **_run_variables(options)},
        environment={"DEVENV_COMMAND": options.command} if options.command else {},
        extra=options.extra,
        arguments=options.ansible_arguments(),
        verbosity=options.verbosity,
        timeout=options.timeout,
    )
    outcome = runner.run(request, watcher)
    run_dir = runs.find(paths.environment(name), outcome.run_id)
    if outcome.ok:
        return RunResult(name, outcome.changed, outcome.seconds, run_dir)
    raise _failure(name, outcome, run_dir, options)


def _refuse_reserved(extra: Sequence[Mapping[str, Any] | Path]) -> None:
    for key in (key for item in extra if not isinstance(item, Path) for key in item):
        if key in RESERVED:
            raise errors.UsageError(f"{key} is not given by -e here", where=f"-e {key}", advice=f"use {RESERVED[key]}")


def _run_variables(options: Options) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    if options.timeout:
        variables["devenv_timeout"] = int(options.timeout)
    if options.artifacts:
        variables["devenv_artifacts"] = str(options.artifacts.absolute())
    return variables


def _failure(name: str, outcome: RunOutcome, run_dir: Path | None, options: Options) -> BaseException:
    log = _log(name, outcome, run_dir)
    # failure.json of the run: the record callback knows more than events tell.
    recorded = files.read_json(run_dir / "failure.json", dict) if run_dir else None
    # A signal that ended only the gathering after a failure leaves the failure as it is.
    if outcome.signal and "gather_trouble" not in (recorded or {}):
        return errors.Interrupted(128 + outcome.signal, log)
    if outcome.timed_out:
        return _too_late(outcome, recorded, log, options)
    return errors.from_failure(recorded or outcome.failure or {"message": "ansible-playbook said nothing"}, log)


def _too_late(
    outcome: RunOutcome, recorded: Mapping[str, Any] | None, log: Path | None, options: Options
) -> errors.Error:
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons

    told = recorded if recorded and recorded.get("reason") != "interrupted" else {}
    missing = f": {told['message']}" if told.get("message") else ""
    return errors.make(
        f"not done within {options.timeout:g} s, ended at: {outcome.task or 'the start'}{missing}",
        exit_code=reasons.stages().get(outcome.stage, 1),
        reason="time_over",
        stage=outcome.stage,
        advice=reasons.catalogue()["time_over"].advice,
        log=log,
    )


def _log(name: str, outcome: RunOutcome, run_dir: Path | None) -> Path | None:
    """The run's log. A run that ended before the collection could write one gets what ansible said."""
    if run_dir is not None:
        return run_dir / LOG
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import redact

    if not outcome.output or (outcome.failure or {}).get("exit") in (2, 9, 10, 14):
        return None
    folder = paths.home() / "history" / name / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{outcome.run_id}"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, mode=0o700)
        (folder / LOG).touch(mode=0o600)
        (folder / LOG).write_text(redact.redact("\n".join(outcome.output)) + "\n")
        return folder / LOG
    return None
