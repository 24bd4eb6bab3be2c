"""Commands that run a playbook: up, down, start, stop, validate, gather; plan, which says what up would do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from devenv import errors
from devenv.cli import options as given
from devenv.cli import output
from devenv.cli.run_options import RunOptions, run_options

if TYPE_CHECKING:
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades.plan import UpgradePlan

OnFailure = Annotated[
    str,
    typer.Option(
        "--on-failure", metavar="keep|destroy", help="What becomes of a new environment when its first run fails."
    ),
]


@run_options(check=True)
def up(
    common: RunOptions,
    profile: given.Profile = None,
    name: given.Name = None,
    changes: given.Set = None,
    snapshot: given.Snapshot = None,
    extra_vars: given.ExtraVars = None,
    tags: given.Tags = "",
    limit: given.Limit = "",
    diff: given.Diff = False,
    forks: given.Forks = 0,
    on_failure: OnFailure = "keep",
    full: Annotated[
        bool, typer.Option("--full", help="Run every stage, also when nothing has changed since the last up.")
    ] = False,
    no_gather: Annotated[
        bool, typer.Option("--no-gather", help="After a failure, do not collect what the nodes know.")
    ] = False,
) -> None:
    """Make an environment, or bring it to what its profile says.

    Safe to repeat: what is as it should be is left alone, and when nothing has changed since the last up, no stage
    runs. Without --profile an existing environment keeps its own.
    With --snapshot a new environment starts with what devenv snapshot save kept, with new keys and certificates.
    What follows -- goes to ansible-playbook.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import next_steps

    from devenv import operations
    from devenv.environments import names, target
    from devenv.runs.progress import duration

    with common.running() as run:
        if on_failure not in ("keep", "destroy"):
            raise errors.UsageError(f"{on_failure!r} is neither keep nor destroy", where="--on-failure")
        chosen = common.options(extra=extra_vars, tags=tags, limit=limit, diff=diff, forks=forks, full=full)
        goal = (
            target.from_snapshot(snapshot, profile, name, given.overrides(changes))
            if snapshot
            else target.resolve(profile, name, given.overrides(changes))
        )
        result = operations.up(goal, chosen, run.watcher, on_failure=on_failure, gather=not no_gather)
        told = next_steps.with_devenv(
            goal.name, goal.resolved or {}, duration(result.seconds), only_one=len(names.known()) <= 1
        )
        run.done(result, [] if common.check else told)


@run_options(check=True)
def down(common: RunOptions, name: given.Name = None, extra_vars: given.ExtraVars = None) -> None:
    """Remove an environment and everything that this machine holds of it.

    One that is not there is no error. Bundles, images and logs stay: devenv prune removes them. Also called destroy.
    """
    from devenv import operations
    from devenv.environments import names
    from devenv.runs import playbook

    with common.running() as run:
        chosen = common.options(extra=extra_vars)
        if name is None and not names.known():
            run.done(playbook.RunResult("", text="there is no environment"))
            return
        result = operations.down(names.choose(name), chosen, run.watcher)
        run.done(
            result,
            []
            if result.text or common.check
            else [f"{result.name} is gone", "bundles, images and logs stay: devenv prune removes them"],
        )


@run_options()
def start(common: RunOptions, name: given.Name = None) -> None:
    """Start the stopped nodes of an environment."""
    _simple("start", common, name, "runs")


@run_options()
def stop(common: RunOptions, name: given.Name = None) -> None:
    """Stop the nodes as a shutdown would; start, or up, brings them back."""
    _simple("stop", common, name, "is stopped; devenv start brings it back")


def _simple(playbook_name: str, common: RunOptions, name: str | None, end: str) -> None:
    from devenv.environments import names
    from devenv.runs import playbook

    with common.running() as run:
        result = playbook.run(playbook_name, names.existing(name), {}, common.options(), run.watcher)
        run.done(result, [f"{result.name} {end}"])


@run_options()
def validate(
    common: RunOptions,
    name: given.Name = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit document with a case a check.")
    ] = None,
) -> None:
    """Prove that the cluster works: a line a check, each by itself.

    Ends with 8 when one does not pass within the time (2m by default).
    """
    from devenv import operations
    from devenv.environments import names

    with common.running() as run:
        try:
            result = operations.validate(names.existing(name), common.options(), run.watcher, junit=junit)
        except errors.Error as error:
            _show_checks(run, error.checks)
            raise
        _show_checks(run, result.checks)
        run.done(result, [f"{result.name} works"])


def _show_checks(run: output.Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line a check on stdout, as text or as one object."""
    run.watcher.close()
    several = len({row["cluster"] for row in rows}) > 1
    width = max((len(_check_name(row, several)) for row in rows), default=0)
    for row in rows:
        if run.as_json:
            output.data(json.dumps({"type": "check", **row}))
            continue
        seen = " ".join(str(row["seen"]).split())
        head = f"{'ok' if row['ok'] else 'failed':<6}  {_check_name(row, several):<{width}}  {row['seconds']:>6.1f}s"
        output.data(f"{head}  {seen}")
        for text in row["warnings"]:
            output.data(f"{'':<6}  {'':<{width}}  warning: {text}")


def _check_name(row: Mapping[str, Any], several: bool) -> str:
    return f"{row['cluster']}/{row['name']}" if several else str(row["name"])


@run_options(artifacts=False)
def gather(
    common: RunOptions,
    name: given.Name = None,
    where: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE|DIR", help="The archive (.tar.gz), or a folder for it; by default here."
        ),
    ] = "",
) -> None:
    """Collect what nodes, clusters and this host know into one archive, without secrets.

    What does not answer is told, and noted in the archive. A run that changes something does so by itself when it
    fails. Works while another run holds the environment.
    """
    from devenv import operations
    from devenv.environments import names

    with common.running() as run:
        done = operations.gather(names.existing(name), where, common.options(), run.watcher)
        run.watcher.close()
        if common.as_json:
            output.data(json.dumps({"type": "gathered", "path": str(done.path), "parts": list(done.parts)}))
            run.done(done.result)
            return
        for text in done.troubles:
            output.say(f"missing: {text}")
        output.data(str(done.path))


@run_options(check=True)
def upgrade(
    common: RunOptions,
    kubernetes: Annotated[
        str,
        typer.Option("--kubernetes", metavar="VERSION", help="The new version of Kubernetes, e.g. 1.36.3."),
    ],
    name: given.Name = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Bring an environment to another version of Kubernetes, node by node, each drained meanwhile.

    One minor version at a time. What was ended on its way goes on with the same command. Ends with 14 when the step
    cannot be taken.
    """
    from devenv import operations
    from devenv.environments import names

    if plan:
        found = operations.plan_upgrade(names.existing(name), kubernetes)
        output.document("json" if common.as_json else "text", found, _upgrade_text)
        return
    with common.running() as run:
        result = operations.upgrade(names.existing(name), kubernetes, common.options(), run.watcher)
        told = f"{result.name} has Kubernetes {kubernetes.removeprefix('v')}"
        run.done(
            result,
            [] if common.check else [told, "a profile file of yours that names a version needs the new one, too"],
        )


def _upgrade_text(plan: UpgradePlan) -> str:
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import plan as logic

    return "\n".join(logic.lines(plan))


def plan(
    profile: given.Profile = None, name: given.Name = None, changes: given.Set = None, as_json: given.Json = False
) -> None:
    """Say what up would add, change and remove. Reads only.

    Ends with 14 when up would refuse a change of the profile.
    """
    from devenv.environments import status as environment_status
    from devenv.environments import target

    found = environment_status.plan(target.resolve(profile, name, given.overrides(changes), compare=False))
    output.document("json" if as_json else "text", found, _plan_text)
    if found["refused"]:
        raise typer.Exit(14)


def _plan_text(found: dict[str, Any]) -> str:
    marks = {"add": "+", "start": ">", "change": "~", "remove": "-", "refused": "!"}
    lines = [f"{mark} {key:<8} {item}" for key, mark in marks.items() for item in found[key]]
    head = f"{found['name']} ({found['profile']})"
    return "\n".join([f"{head}: {'nothing to do' if not lines else ''}".rstrip(), *lines])
