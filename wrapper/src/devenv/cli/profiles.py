"""devenv profile: inspect profiles."""

from __future__ import annotations

import json
import shlex
from typing import Annotated, Any

import typer
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

from devenv.cli import options as given
from devenv.cli import output

app = typer.Typer(help="List, show, compare and validate profiles.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(metavar="PROFILE", help="Name or file of a profile.", autocompletion=given.complete_profile)
]
Other = Annotated[
    str | None,
    typer.Argument(
        metavar="[OTHER]", help="By default the environment's stored one.", autocompletion=given.complete_profile
    ),
]
Variables = Annotated[
    list[str] | None,
    typer.Option("--extra-vars", "-e", metavar="VARS", help="Variables: key=value, @file, or YAML/JSON. Repeatable."),
]
EnvFormat = Annotated[
    str | None, typer.Option("--format", metavar="FORMAT", help="shell (the default), dotenv, github, prow or json.")
]


@app.command("list")
def list_(
    show_all: Annotated[bool, typer.Option("--all", help="List every full name; --json always does.")] = False,
    as_json: given.Json = False,
    form: given.Format = None,
) -> None:
    """List the profiles that devenv ships."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import catalogue

    rows = catalogue.describe()
    output.document(given.form(as_json, form), rows, _all_text if show_all else _short_text)


def _all_text(rows: list[dict[str, Any]]) -> str:
    shown = [{**row, "memory": output.size(row["memory"])} for row in rows]
    return output.table(shown, "profile", "aliases=SHORT", "nodes", "cpus", "memory", "description")


def _short_text(rows: list[dict[str, Any]]) -> str:
    """Return the short names, and the axes that full names combine."""
    named = [(alias, row) for row in rows for alias in row["aliases"]]
    shown = [{**row, "profile": alias, "memory": output.size(row["memory"])} for alias, row in named]
    alias, example = min(named, key=lambda item: len(item[0]))
    return "\n".join(
        [
            output.table(shown, "profile", "nodes", "cpus", "memory", "description"),
            "",
            f"A full name is TOPOLOGY-STACK-ADDRESSING; {alias} is short for {example['profile']}.",
            *(
                f"{axis + ':':<12}{', '.join(dict.fromkeys(row[axis] for row in rows))}"
                for axis in ("stack", "addressing")
            ),
            f"devenv profile list --all lists all {len(rows)} full names.",
        ]
    )


@app.command()
def show(profile: Name, changes: given.Set = None, as_json: given.Json = False, form: given.Format = None) -> None:
    """Print a resolved profile, with every value filled in.

    The output is a valid profile: devenv profile show ha > mine.yml
    """
    resolved = _resolved(profile, changes)
    output.data(output.to_text(resolved, given.form(as_json, form, ("yaml", "json"))))
    _warn(resolved)


@app.command()
def export(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The environment.", autocompletion=given.complete_name),
    ] = None,
    as_json: given.Json = False,
    form: given.Format = None,
) -> None:
    """Print an environment's state as a profile that creates the same one.

    Includes what --set, node add, node remove and upgrade have changed.
    Role variables that the environment was created with (-e) are printed as
    a comment, since a profile has no keys for them.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import migrations
    from ansible_collections.devenv.lab.plugins.plugin_utils.variables import kept

    from devenv.environments import access, names

    environment = names.existing(name)
    document, _ = migrations.without_ignored(migrations.from_resolved(access.profile(environment)))
    variables = kept.read(paths.environment(environment))
    chosen = given.form(as_json, form, ("yaml", "json"))
    remarks = [f"needs -e {shlex.quote(json.dumps({key: value}))}" for key, value in variables.items()]
    if chosen == "yaml":
        output.data("".join(f"# {text}\n" for text in remarks))
    else:
        for text in remarks:
            output.say(text)
    output.data(output.to_text(document, chosen))


@app.command()
def diff(
    context: typer.Context,
    profile: Name,
    other: Other = None,
    name: given.Name = None,
    as_json: given.Json = False,
) -> None:
    """Compare two profiles, or a profile with an environment.

    Marks each difference: ~ can be applied to an existing environment,
    ! cannot.
    """
    from devenv.environments import access, names, status

    if other:
        given.refuse("with two profiles", {"--name": given.typed(context, "name")})
    old = _resolved(profile) if other else access.profile(names.existing(name))
    output.document(given.form(as_json), status.differences(old, _resolved(other or profile)), _diff_text)


def _diff_text(changes: list[dict[str, Any]]) -> str:
    lines = [
        f"{'~' if change['applies'] else '!'} {change['path']}: {change['old']} -> {change['new']} ({change['why']})"
        for change in changes
    ]
    return "\n".join(lines or ["no difference"])


@app.command()
def validate(profile: Name, changes: given.Set = None) -> None:
    """Check a profile; print what is wrong with it, and where."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines

    resolved = _resolved(profile, changes)
    engines.require(resolved)
    version, count = resolved["kubernetes"]["version"], len(resolved["nodes"])
    output.data(f"{profile}: {resolved['profile']}, {count} nodes, Kubernetes {version}")
    _warn(resolved)


@app.command()
def env(
    profile: Name,
    changes: given.Set = None,
    extra_vars: Variables = None,
    as_json: given.Json = False,
    form: EnvFormat = None,
) -> None:
    """Print a profile's values as an env file.

    For a shell, a .env file, GitHub Actions or an OpenShift CI job.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import env_file

    from devenv.runs.extra_vars import read

    chosen = given.form(as_json, form, (*env_file.FORMATS, "json"))
    variables: dict[str, Any] = dict(env_file.of_profile(_resolved(profile, changes)))
    for value in extra_vars or []:
        variables.update(read(value))
    if chosen == "json":
        output.data(output.to_text(env_file.checked(variables), "json"))
    else:
        output.data(env_file.render(variables, chosen))


def _resolved(profile: str, changes: list[str] | None = None) -> Profile:
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

    return resolve(profile, overrides=given.overrides(changes))


def _warn(resolved: Profile) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import rules

    for text in rules.warnings(resolved):
        output.say(f"warning: {text}")
