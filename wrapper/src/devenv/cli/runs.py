"""Commands that run a playbook: up, down, start, stop, validate, gather; plan, which says what up would do."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from devenv import errors
from devenv.cli import options as given
from devenv.cli import output

if TYPE_CHECKING:
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades.plan import UpgradePlan

OnFailure = Annotated[
    str,
    typer.Option(
        "--on-failure", metavar="keep|destroy", help="What becomes of a new environment when its first run fails."
    ),
]


def options(context: typer.Context, **values: Any) -> Any:
    """playbook.Options of what was typed."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import redact

    from devenv.runs import extra_vars, playbook

    return playbook.Options(
        extra=[extra_vars.parse(value) for value in values.pop("extra", None) or []],
        arguments=given.rest(context),
        timeout=given.seconds(values.pop("timeout", None)),
        command=redact.redact(shlex.join(["devenv", *sys.argv[1:]])),
        **values,
    )


def up(
    context: typer.Context,
    profile: given.Profile = None,
    name: given.Name = None,
    changes: given.Set = None,
    snapshot: given.Snapshot = None,
    extra_vars: given.ExtraVars = None,
    tags: given.Tags = "",
    limit: given.Limit = "",
    check: given.Check = False,
    diff: given.Diff = False,
    verbose: given.Verbose = 0,
    forks: given.Forks = 0,
    timeout: given.Timeout = None,
    on_failure: OnFailure = "keep",
    artifacts: given.Artifacts = None,
    full: Annotated[
        bool, typer.Option("--full", help="Run every stage, also when nothing has changed since the last up.")
    ] = False,
    no_gather: Annotated[
        bool, typer.Option("--no-gather", help="After a failure, do not collect what the nodes know.")
    ] = False,
    as_json: given.Json = False,
) -> None:
    """Make an environment, or bring it to what its profile says.

    Safe to repeat: what is as it should be is left alone, and when nothing has changed since the last up, no stage
    runs. Without --profile an existing environment keeps its own.
    With --snapshot a new environment starts with what devenv snapshot save kept, with new keys and certificates.
    What follows -- goes to ansible-playbook.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import next_steps

    from devenv import operations
    from devenv.environments import names, target
    from devenv.runs.progress import duration

    with output.running(as_json=as_json, verbose=bool(verbose)) as run:
        if on_failure not in ("keep", "destroy"):
            raise errors.UsageError(f"{on_failure!r} is neither keep nor destroy", where="--on-failure")
        chosen = options(
            context, extra=extra_vars, tags=tags, limit=limit, check=check, diff=diff, verbosity=verbose, forks=forks,
            timeout=timeout, artifacts=artifacts, full=full,
        )  # fmt: skip
        goal = (
            target.from_snapshot(snapshot, profile, name, given.overrides(changes))
            if snapshot
            else target.resolve(profile, name, given.overrides(changes))
        )
        result = operations.up(goal, chosen, run.watcher, on_failure=on_failure, gather=not no_gather)
        told = next_steps.with_devenv(
            goal.name, goal.resolved or {}, duration(result.seconds), only_one=len(names.known()) <= 1
        )
        run.done(result, [] if check else told)


def down(
    context: typer.Context,
    name: given.Name = None,
    extra_vars: given.ExtraVars = None,
    verbose: given.Verbose = 0,
    check: given.Check = False,
    timeout: given.Timeout = None,
    artifacts: given.Artifacts = None,
    as_json: given.Json = False,
) -> None:
    """Remove an environment and everything that this machine holds of it.

    One that is not there is no error. Bundles, images and logs stay: devenv prune removes them. Also called destroy.
    """
    from devenv import operations
    from devenv.environments import names
    from devenv.runs import playbook

    with output.running(as_json=as_json, verbose=bool(verbose)) as run:
        chosen = options(
            context, extra=extra_vars, verbosity=verbose, check=check, timeout=timeout, artifacts=artifacts
        )
        if name is None and not names.known():
            run.done(playbook.RunResult("", text="there is no environment"))
            return
        result = operations.down(names.choose(name), chosen, run.watcher)
        run.done(
            result,
            []
            if result.text or check
            else [f"{result.name} is gone", "bundles, images and logs stay: devenv prune removes them"],
        )


def _simple(
    playbook_name: str, told: str, context: typer.Context, name: str | None, as_json: bool, **values: Any
) -> None:
    from devenv.environments import names
    from devenv.runs import playbook

    with output.running(as_json=as_json, verbose=bool(values.get("verbosity"))) as run:
        chosen = options(context, **values)
        result = playbook.run(playbook_name, names.existing(name), {}, chosen, run.watcher)
        run.done(result, [f"{result.name} {told}"])


def start(
    context: typer.Context,
    name: given.Name = None,
    verbose: given.Verbose = 0,
    timeout: given.Timeout = None,
    artifacts: given.Artifacts = None,
    as_json: given.Json = False,
) -> None:
    """Start the stopped nodes of an environment."""
    _simple("start", "runs", context, name, as_json, verbosity=verbose, timeout=timeout, artifacts=artifacts)


def stop(
    context: typer.Context,
    name: given.Name = None,
    verbose: given.Verbose = 0,
    timeout: given.Timeout = None,
    artifacts: given.Artifacts = None,
    as_json: given.Json = False,
) -> None:
    """Stop the nodes as a shutdown would; start, or up, brings them back."""
    _simple(
        "stop",
        "is stopped; devenv start brings it back",
        context,
        name,
        as_json,
        verbosity=verbose,
        timeout=timeout,
        artifacts=artifacts,
    )


def validate(
    context: typer.Context,
    name: given.Name = None,
    verbose: given.Verbose = 0,
    timeout: given.Timeout = None,
    artifacts: given.Artifacts = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit document with a case a check.")
    ] = None,
    as_json: given.Json = False,
) -> None:
    """Prove that the cluster works: a line a check, each by itself.

    Ends with 8 when one does not pass within the time (2m by default).
    """
    from devenv import operations
    from devenv.environments import names

    with output.running(as_json=as_json, verbose=bool(verbose)) as run:
        chosen = options(context, verbosity=verbose, timeout=timeout, artifacts=artifacts)
        try:
            result = operations.validate(names.existing(name), chosen, run.watcher, junit=junit)
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


def gather(
    context: typer.Context,
    name: given.Name = None,
    where: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE|DIR", help="The archive (.tar.gz), or a folder for it; by default here."
        ),
    ] = "",
    verbose: given.Verbose = 0,
    timeout: given.Timeout = None,
    as_json: given.Json = False,
) -> None:
    """Collect what nodes, clusters and this host know into one archive, without secrets.

    What does not answer is told, and noted in the archive. A run that changes something does so by itself when it
    fails. Works while another run holds the environment.
    """
    from devenv import operations
    from devenv.environments import names

    with output.running(as_json=as_json, verbose=bool(verbose)) as run:
        chosen = options(context, verbosity=verbose, timeout=timeout)
        done = operations.gather(names.existing(name), where, chosen, run.watcher)
        run.watcher.close()
        if as_json:
            output.data(json.dumps({"type": "gathered", "path": str(done.path), "parts": list(done.parts)}))
            run.done(done.result)
            return
        for text in done.troubles:
            output.say(f"missing: {text}")
        output.data(str(done.path))


def upgrade(
    context: typer.Context,
    kubernetes: Annotated[
        str,
        typer.Option("--kubernetes", metavar="VERSION", help="The new version of Kubernetes, e.g. 1.36.3."),
    ],
    name: given.Name = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")] = False,
    verbose: given.Verbose = 0,
    check: given.Check = False,
    timeout: given.Timeout = None,
    artifacts: given.Artifacts = None,
    as_json: given.Json = False,
) -> None:
    """Bring an environment to another version of Kubernetes, node by node, each drained meanwhile.

    One minor version at a time. What was ended on its way goes on with the same command. Ends with 14 when the step
    cannot be taken.
    """
    from devenv import operations
    from devenv.environments import names

    if plan:
        found = operations.plan_upgrade(names.existing(name), kubernetes)
        output.document("json" if as_json else "text", found, _upgrade_text)
        return
    with output.running(as_json=as_json, verbose=bool(verbose)) as run:
        chosen = options(context, verbosity=verbose, check=check, timeout=timeout, artifacts=artifacts)
        result = operations.upgrade(names.existing(name), kubernetes, chosen, run.watcher)
        told = f"{result.name} has Kubernetes {kubernetes.removeprefix('v')}"
        run.done(result, [] if check else [told, "a profile file of yours that names a version needs the new one, too"])


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
