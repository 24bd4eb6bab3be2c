"""What changes an environment: each function is one run of a playbook, and raises what devenv.errors has for its
failure.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv import errors
from devenv.environments import names
from devenv.runs import runner
from devenv.runs.history import LOG


@dataclass(frozen=True)
class Options:
    """What Ansible's own user knows, and what every run has. ``timeout`` in seconds; ``extra`` is runner.extra_vars'
    output; ``arguments`` goes to ansible-playbook unread; with ``full`` no stage is saved.
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
    def whole(self) -> bool:
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
class Result:
    """A run that came to its end. ``changed`` counts changed tasks over all hosts."""

    name: str
    changed: int = 0
    seconds: float = 0.0
    run_dir: Path | None = None
    text: str = ""
    checks: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Target:
    """Which environment a run is for, and the profile it is to have; ``resolved`` is None when the state's own is
    kept.
    """

    name: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    resolved: Mapping[str, Any] | None = None


# --- what is wanted ---------------------------------------------------------------------------------------------------


def target(
    profile_name: str | None, name: str | None, overrides: Mapping[str, Any] | None = None, *, compare: bool = True
) -> Target:
    """What `up` works on. Without a profile it is an existing environment, whose own profile is kept, with
    ``overrides`` laid over it.

    Everything that can be wrong with name and profile is found here, before Ansible starts; with ``compare`` also a
    change that an existing environment cannot take (ProfileChangeRefused), and that someone else is at work on it
    (EnvironmentBusy).
    """
    if not profile_name:
        return _kept(name, overrides, compare)
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import profile

    with names.translated():
        resolved = profile.resolve(profile_name, overrides=dict(overrides or {}))
    is_path = "/" in profile_name or profile_name.endswith((".yml", ".yaml"))
    given = str(Path(profile_name).expanduser().absolute()) if is_path else profile_name
    return _named(resolved, name, overrides, {"profile": given}, compare=compare)


def target_from(
    snapshot: str, profile_name: str | None, name: str | None, overrides: Mapping[str, Any] | None = None
) -> Target:
    """What `up --snapshot` works on; without a profile, with that of the snapshot. Raises UsageError."""
    if profile_name:
        goal = target(profile_name, name, overrides)
        return Target(goal.name, {**goal.variables, "devenv_snapshot": snapshot}, goal.resolved)
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue, compare

    with names.translated():
        resolved = compare.profile_of(catalogue.read(paths.home(), snapshot), overrides)
    return _named(resolved, name, overrides, {"devenv_snapshot": snapshot})


def _named(
    resolved: dict[str, Any],
    name: str | None,
    overrides: Mapping[str, Any] | None,
    variables: Mapping[str, Any],
    *,
    compare: bool = True,
) -> Target:
    """The environment that a profile is for, by ``name`` or the profile's own; with ``compare``, one that is there and
    cannot become this is refused.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, stages
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import profile

    with names.translated():
        chosen = profile.validate_name(name or os.environ.get("DEVENV_NAME") or resolved["name"])
        profile.require_engine(resolved)
        folder = paths.environment(chosen)
        if compare:
            lock.check(folder)
            stages.compare(folder, resolved)
    changed = {"devenv_overrides": dict(overrides)} if overrides else {}
    return Target(chosen, {**variables, "devenv_name": chosen, **changed}, resolved)


def _kept(name: str | None, overrides: Mapping[str, Any] | None, compare: bool) -> Target:
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import stages, state, upgrade_record

    if not (name or os.environ.get("DEVENV_NAME")) and not names.known():
        raise errors.UsageError(
            "no profile was given",
            advice="devenv up --profile aio; devenv profile list shows all",
            reason="profile_not_given",
        )
    chosen = names.choose(name)
    folder = paths.environment(chosen)
    with names.translated():
        resolved = state.read_profile(folder)
        if compare:
            upgrade_record.require_finished(folder)
    if resolved is None:
        raise errors.UsageError(
            f"no profile was given, and there is no environment {chosen} that has one",
            advice="devenv up --profile aio; devenv profile list shows all", reason="profile_not_given",
        )  # fmt: skip
    if not overrides:
        return Target(chosen, {"devenv_name": chosen}, resolved)
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend

    with names.translated():
        wanted = amend.amend(resolved, overrides)
        if compare:
            lock.check(folder)
            stages.compare(folder, wanted)
    return Target(chosen, {"devenv_name": chosen, "devenv_overrides": dict(overrides)}, wanted)


# --- runs ------------------------------------------------------------------------------------------------------------


def up(
    goal: Target,
    options: Options | None = None,
    watcher: runner.Watcher | None = None,
    *,
    on_failure: str = "keep",
    gather: bool = True,
) -> Result:
    """Make the environment what its profile says; no stage runs where settled.py sees that all would find nothing to
    do, unless an option asks for more than that. With ``on_failure="destroy"`` an environment that this run made is
    taken down again when it fails; one that was there before never is, nor is an interrupted one. With ``gather``,
    what the nodes know is collected first.
    """
    from devenv.environments import unchanged

    options, began = options or Options(), time.monotonic()
    quick = options.whole and not options.shown and "devenv_snapshot" not in goal.variables
    if quick and unchanged.still(goal.name, goal.resolved):
        return Result(goal.name, seconds=time.monotonic() - began, text="nothing has changed since the last up")
    new = not paths.environment(goal.name).exists()
    variables = goal.variables if gather else {**goal.variables, "devenv_gather": False}
    try:
        result = run("cluster", goal.name, variables, options, watcher)
        if options.whole:
            unchanged.note(goal.name, goal.resolved, result.run_dir)
        return result
    except errors.Error as error:
        if gather and not options.check:
            from devenv.environments import diagnostics as environment_diagnostics

            environment_diagnostics.after_timeout(goal.name, error, options.artifacts)
        if on_failure == "destroy" and new and paths.environment(goal.name).exists():
            run("destroy", goal.name, {}, Options(command=options.command), watcher)
            error.log, error.gathered = _moved(goal.name, error.log), _moved(goal.name, error.gathered)
        raise


def _moved(name: str, log: Path | None) -> Path | None:
    """Where a file of a run is once its environment is gone."""
    return paths.home() / "history" / name / log.parent.name / log.name if log else None


def down(name: str, options: Options | None = None, watcher: runner.Watcher | None = None) -> Result:
    """Remove the environment; one that is not there is no error. Without its state folder it is found by labels."""
    names.check_name(name)
    if not paths.environment(name).exists() and not _labelled(name):
        return Result(name, text=f"there is no environment {name}")
    return run("destroy", name, {}, options or Options(), watcher)


def _labelled(name: str) -> bool:
    """Whether a provider knows anything of the environment, or its DHCP server is left; refuses what belongs to
    another DEVENV_HOME that still has it.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry

    machines, networks = registry.visible(name)
    homes = [*(machine.home for machine in machines), *(network.home for network in networks)]
    for home in homes:
        if home not in ("", str(paths.home())) and (Path(home) / "environments" / name).is_dir():
            raise errors.make(
                f"the environment {name} belongs to {home}", exit_code=11, reason="name_taken",
                advice=f"DEVENV_HOME={shlex.quote(home)} devenv down -n {name}",
            )  # fmt: skip
    return bool(homes or dhcp.servers(name))


def run(
    playbook: str, name: str, variables: Mapping[str, Any], options: Options, watcher: runner.Watcher | None = None
) -> Result:
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
    run_dir = find_run(name, outcome.run_id)
    if outcome.ok:
        return Result(name, outcome.changed, outcome.seconds, run_dir)
    raise _failure(name, outcome, run_dir, options)


# Extra variables that have an option or argument of their own: two sources would contradict each other silently.
RESERVED = {
    "profile": "--profile",
    "devenv_name": "--name",
    "devenv_overrides": "--set",
    "devenv_timeout": "--timeout",
    "devenv_artifacts": "--artifacts",
    "devenv_gather": "--no-gather",
    "devenv_snapshot": "--snapshot",
    "devenv_kubernetes_version": "--kubernetes or --set kubernetes.version",
}


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


def find_run(name: str, run_id: str) -> Path | None:
    """Folder of a run, in the state folder or, when that is gone, in the history."""
    for base in (paths.environment(name) / "runs", paths.home() / "history" / name):
        found = sorted(base.glob(f"*-{run_id}"))
        if found:
            return found[-1]
    return None


def _failure(name: str, outcome: runner.Outcome, run_dir: Path | None, options: Options) -> BaseException:
    log, recorded = _log(name, outcome, run_dir), _recorded(run_dir)
    # A signal that ended only the gathering after a failure leaves the failure as it is.
    if outcome.signal and "gather_trouble" not in (recorded or {}):
        return errors.Interrupted(128 + outcome.signal, log)
    if outcome.timed_out:
        return _too_late(outcome, recorded, log, options)
    return errors.from_failure(recorded or outcome.failure or {"message": "ansible-playbook said nothing"}, log)


def _too_late(
    outcome: runner.Outcome, recorded: Mapping[str, Any] | None, log: Path | None, options: Options
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


def _recorded(run_dir: Path | None) -> dict[str, Any] | None:
    """failure.json of the run: the record callback knows more than events tell."""
    try:
        data = json.loads((run_dir / "failure.json").read_text()) if run_dir else None
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _log(name: str, outcome: runner.Outcome, run_dir: Path | None) -> Path | None:
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


# Whoever asks waits for the answer: a cluster that is ready says so within seconds.
VALIDATE_SECONDS = 120


def validate(
    name: str,
    options: Options | None = None,
    watcher: runner.Watcher | None = None,
    *,
    junit: Path | None = None,
) -> Result:
    """Run every check of the role validate, with real pods, whatever was proved before. ``checks`` of the result, or of
    the error that is raised, has a row a check: ``{cluster, name, ok, seconds, seen, warnings}``.

    ``junit``: file for a document with a case a check. Without a timeout, waits VALIDATE_SECONDS.
    """
    from devenv.environments import access

    variables: dict[str, Any] = {
        "validate_probes": "always",
        "validate_nodes": list(access.hosts(name)),
        "devenv_timeout": VALIDATE_SECONDS,
    }
    if junit:
        variables["validate_junit"] = str(junit.absolute())
    try:
        result = run("validate", name, variables, options or Options(), watcher)
    except errors.Error as error:
        error.checks = _checks(error.log.parent if error.log else None)
        raise
    return replace(result, checks=_checks(result.run_dir))


def _checks(run_dir: Path | None) -> list[dict[str, Any]]:
    """What the stage validate wrote into its run's folder."""
    try:
        rows = json.loads((run_dir / "checks.json").read_text()) if run_dir else []
    except (OSError, ValueError):
        return []
    return rows if isinstance(rows, list) else []


def plan_upgrade(name: str, version: str) -> dict[str, Any]:
    """What `upgrade` would do: ``{name, from, to, begun, bundle, parts, nodes}``, see plugin_utils/upgrades/plan.py.
    Reads only; raises what the upgrade would be refused with.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import upgrade_record
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import plan as upgrades

    folder, resolved, new = _upgrade_step(name, version)
    with names.translated():
        begun = upgrade_record.pending(folder)
        seen = upgrades.look(folder, list(resolved["clusters"]), begun is not None)
        upgrades.require_ready(resolved, seen, begun is not None)
        return upgrades.plan(name, resolved, new, seen, begun, store.find(new.kubernetes) is not None)


def upgrade(name: str, version: str, options: Options | None = None, watcher: runner.Watcher | None = None) -> Result:
    """Bring the environment to Kubernetes ``version``, or finish that. Refuses at once what cannot be done."""
    new = _upgrade_step(name, version)[2].kubernetes
    return run("upgrade", name, {"devenv_kubernetes_version": new}, options or Options(), watcher)


def _upgrade_step(name: str, version: str) -> tuple[Path, dict[str, Any], Any]:
    """State folder, profile, and what the bundle of the new version holds. Raises Error."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, upgrade_record
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import plan as upgrades

    from devenv.environments import nodes as environment_nodes

    resolved, folder = environment_nodes.profile_of(name), paths.environment(name)
    with names.translated():
        lock.check(folder)
        old = str(resolved["kubernetes"]["version"])
        return folder, resolved, upgrades.check(name, old, version, upgrade_record.pending(folder))


def load_images(
    name: str, images: Sequence[str], options: Options | None = None, watcher: runner.Watcher | None = None
) -> Result:
    """Load images of podman's local store, or archives of images, into every node."""
    places = [str(Path(image).absolute()) if Path(image).is_file() else image for image in images]
    return run("image_load", name, {"devenv_images": places}, options or Options(), watcher)


def save_snapshot(
    name: str,
    snapshot: str,
    options: Options | None = None,
    watcher: runner.Watcher | None = None,
    *,
    force: bool = False,
) -> Result:
    """Save the environment ``name`` under the name ``snapshot``; what cannot be named so is refused at once."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue

    with names.translated():
        catalogue.check_new(paths.home(), snapshot)
    variables = {"devenv_snapshot": snapshot, "devenv_force": force}
    return run("snapshot", name, variables, options or Options(), watcher)
