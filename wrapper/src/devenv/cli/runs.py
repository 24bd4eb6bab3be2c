"""Commands that run a playbook (up, down, start, stop, validate, gather, upgrade), and plan, a preview of up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import next_steps

from devenv import errors, operations
from devenv.cli import options as given
from devenv.cli import output, process
from devenv.cli.run_options import Run, run_options
from devenv.environments import names, target
from devenv.runs import playbook
from devenv.runs.extra_vars import parse
from devenv.runs.progress import duration
from devenv.runs.runner import Options

if TYPE_CHECKING:
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades.plan import UpgradePlan

OnFailure = Annotated[
    str, typer.Option("--on-failure", metavar="keep|destroy", help="Keep or remove a new environment that fails.")
]


@run_options(check=True)
def up(
    run: Run,
    profile: given.Profile = None,
    name: given.Name = None,
    changes: given.Set = None,
    provider: given.Provider = None,
    engine: given.Engine = None,
    kubernetes: given.Kubernetes = None,
    snapshot: given.Snapshot = None,
    extra_vars: given.ExtraVars = None,
    tags: given.Tags = "",
    limit: given.Limit = "",
    diff: given.Diff = False,
    forks: given.Forks = 0,
    ttl: Annotated[
        str | None, typer.Option("--ttl", metavar="TIME", help="Let it expire after TIME: 30m, 2h, 7d; or never.")
    ] = None,
    on_failure: OnFailure = "keep",
    full: Annotated[bool, typer.Option("--full", help="Run every stage, even if nothing has changed.")] = False,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Recreate, empty, the clusters whose data are lost.")
    ] = False,
    no_gather: Annotated[bool, typer.Option("--no-gather", help="Do not gather after a failure.")] = False,
) -> None:
    """Create an environment, or converge it to its profile.

    A repeated run changes only what differs from the profile. If nothing
    has changed since the last run, no stage runs. Without --profile, the
    profile is devenv.yml of the working directory, if that file exists;
    otherwise an existing environment keeps its stored profile.

    With --snapshot, a new environment starts with the saved state, and
    with new keys and certificates.

    With --ttl, devenv prune --expired removes the environment after that
    time; devenv extend gives it more.

    Arguments after -- are passed to ansible-playbook.
    """
    if on_failure not in ("keep", "destroy"):
        raise errors.UsageError(f"{on_failure!r} is neither keep nor destroy", where="--on-failure")
    if run.check:
        given.refuse("with --check", {"--on-failure destroy": on_failure == "destroy", "--no-gather": no_gather})
    options = run.options(extra_vars, tags=tags, limit=limit, diff=diff, forks=forks, full=full)
    overrides = given.overrides(changes, provider=provider, engine=engine, kubernetes=kubernetes)
    goal = target.resolve(given.profile_or_own_file(profile, snapshot), name, overrides, snapshot=snapshot, ttl=ttl)
    if (profile or snapshot) and not given.typed(run.context, "name") and goal.name != goal.resolved["name"]:
        # devenv env exports it, so a shell may still have it from another environment.
        output.say(f"DEVENV_NAME selects the environment {goal.name}; --name NAME selects another")
    result = operations.up(goal, options, on_failure=on_failure, gather=not no_gather, recreate=recreate)
    only_one = len(names.known()) <= 1
    run.done(result, *next_steps.with_devenv(goal.name, goal.resolved, duration(result.seconds), only_one=only_one))


@run_options(check=True)
def down(
    run: Run,
    name: given.Name = None,
    every: Annotated[bool, typer.Option("--all", help="Remove all environments of this DEVENV_HOME.")] = False,
    extra_vars: given.ExtraVars = None,
) -> None:
    """Remove an environment and everything that belongs to it.

    Does nothing if the environment does not exist. Bundles, images and logs
    stay; devenv prune removes them. Alias: destroy.
    """
    if every:
        given.refuse("with --all", {"--name": given.typed(run.context, "name")})
    options = run.options(extra_vars)
    if every:
        from devenv.environments import expired

        result = operations.down_all(expired.all_environments(), options)
    elif name is None and not names.known():
        result = playbook.RunResult("", text="no environment exists")
    else:
        result = operations.down(names.choose(name), options)
    removed = [f"removed {result.name}", "bundles, images and logs stay; devenv prune removes them"]
    run.done(result, *([] if result.text else removed))


@run_options(artifacts=False)
def extend(
    run: Run,
    time: Annotated[str, typer.Argument(metavar="TIME", help="30m, 2h, 7d or 1d12h; or never.")],
    name: given.Name = None,
) -> None:
    """Postpone the expiry of an environment created with up --ttl.

    TIME is added to the time that it still has, or counts from now if it
    has expired. With never, it no longer expires.
    """
    from devenv.environments import status

    environment = names.existing(name)
    result = operations.extend(environment, time, run.options())
    run.done(result, f"{environment} expires {status.expiry_text(environment) or 'never'}")


@run_options()
def start(run: Run, name: given.Name = None) -> None:
    """Start the stopped nodes of an environment."""
    result = playbook.run("start", names.existing(name), {}, run.options())
    run.done(result, f"started {result.name}")


@run_options()
def stop(run: Run, name: given.Name = None) -> None:
    """Shut down the nodes of an environment; start restarts them."""
    result = playbook.run("stop", names.existing(name), {}, run.options())
    run.done(result, f"stopped {result.name}; devenv start restarts it")


@run_options()
def validate(
    run: Run,
    name: given.Name = None,
    cluster: given.Cluster = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit document with one case per check.")
    ] = None,
    extra_vars: given.ExtraVars = None,
) -> None:
    """Validate the clusters; prints one line per check.

    Exits with 8 if a check does not pass in time (default: 2m).
    """
    try:
        result = operations.validate(names.existing(name), run.options(extra_vars), cluster=cluster, junit=junit)
    except errors.Error as error:
        _show_checks(run, error.checks)
        raise
    _show_checks(run, result.checks)
    run.done(result, f"cluster {cluster} of {result.name} is valid" if cluster else f"{result.name} is valid")


def _show_checks(run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per check on stdout, as text or as one JSON object."""
    run.close()
    several = len({row["cluster"] for row in rows}) > 1
    labels = [f"{row['cluster']}/{row['name']}" if several else str(row["name"]) for row in rows]
    width = max(map(len, labels), default=0)
    for row, label in zip(rows, labels, strict=True):
        if run.as_json:
            output.data(json.dumps({"type": "check", **row}))
            continue
        seen = " ".join(str(row["seen"]).split())
        output.data(f"{'ok' if row['ok'] else 'failed':<6}  {label:<{width}}  {row['seconds']:>6.1f}s  {seen}")
        for text in row["warnings"]:
            output.data(f"{'':<6}  {'':<{width}}  warning: {text}")


@run_options(artifacts=False)
def gather(
    run: Run,
    name: given.Name = None,
    path: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE|DIR", help="A .tar.gz file, or a directory. Default: the current one."
        ),
    ] = "",
) -> None:
    """Collect logs and state into one archive, without secrets.

    Covers nodes, clusters and this host, as must-gather and sosreport do.
    The command lists what did not answer, and so does the archive. A run
    that fails while it changes something gathers automatically. Works while
    another run holds the environment.
    """
    if process.lost_directory and not path:
        raise errors.UsageError("the working directory was removed", advice="name a directory with --output")
    gathered = operations.gather(names.existing(name), path, run.options())
    run.close()
    if gathered.result.partial:
        run.done(gathered.result)
        return
    if run.as_json:
        output.data(json.dumps({"type": "gathered", "path": str(gathered.path), "parts": list(gathered.parts)}))
        run.done(gathered.result)
        return
    for part in gathered.parts:
        if part["trouble"]:
            output.say(f"missing: {part['name']}: {part['trouble']}")
    output.data(str(gathered.path))


@run_options(check=True)
def upgrade(
    run: Run,
    kubernetes: Annotated[
        str, typer.Option("--kubernetes", metavar="VERSION", help="The new Kubernetes version, e.g. 1.36.3.")
    ],
    name: given.Name = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done; change nothing.")] = False,
) -> None:
    """Upgrade Kubernetes, draining one node at a time.

    One minor version at a time. The same command continues an interrupted
    upgrade. Exits with 14 if the version cannot be reached in one step.
    """
    if plan:
        given.refuse("with --plan", {"--check": run.check, "--timeout": run.timeout, "--verbose": run.verbose})
        given.refuse("with --plan", {"--": given.after_dashes(run.context)})
        steps = operations.plan_upgrade(names.existing(name), kubernetes)
        output.document(given.form(run.as_json), steps, _upgrade_text)
        return
    result = operations.upgrade(names.existing(name), kubernetes, run.options())
    version = kubernetes.removeprefix("v")
    run.done(
        result, f"{result.name} runs Kubernetes {version}", "if your profile file sets a version, change it there too"
    )


def _upgrade_text(plan: UpgradePlan) -> str:
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import plan as upgrades

    return "\n".join(upgrades.lines(plan))


def plan(
    profile: given.Profile = None,
    name: given.Name = None,
    changes: given.Set = None,
    provider: given.Provider = None,
    engine: given.Engine = None,
    kubernetes: given.Kubernetes = None,
    extra_vars: given.ExtraVars = None,
    as_json: given.Json = False,
) -> None:
    """Show what up would add, change and remove. Read-only.

    Exits with 14 if up would refuse a change of the profile.
    """
    from devenv.environments import status

    overrides = given.overrides(changes, provider=provider, engine=engine, kubernetes=kubernetes)
    variables = playbook.check_variables(Options(extra=[parse(value) for value in extra_vars or []]))
    steps = status.plan(target.resolve(given.profile_or_own_file(profile), name, overrides, compare=False), variables)
    output.document(given.form(as_json), steps, _plan_text)
    if steps["refused"]:
        raise typer.Exit(14)


def _plan_text(steps: dict[str, Any]) -> str:
    marks = {"add": "+", "start": ">", "change": "~", "remove": "-", "refused": "!"}
    lines = [f"{mark} {key:<8} {item}" for key, mark in marks.items() for item in steps[key]]
    head = f"{steps['name']} ({steps['profile']})"
    kept = [f"= {'keep':<8} {name}: {json.dumps(value)}" for name, value in steps["variables"].items()]
    return "\n".join([f"{head}: {'nothing to do' if not lines else ''}".rstrip(), *lines, *kept])
