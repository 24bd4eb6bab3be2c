"""devenv profile: look at profiles."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

from devenv.cli import options as given
from devenv.cli import output

app = typer.Typer(
    help="Look at profiles: what there is, what one means, whether a file is right.", no_args_is_help=True
)

Wanted = Annotated[str, typer.Argument(metavar="PROFILE", help="Name or file.", autocompletion=given.complete_profile)]
Other = Annotated[
    str | None,
    typer.Argument(
        metavar="[OTHER]",
        help="Another profile; without it, the environment's own is compared.",
        autocompletion=given.complete_profile,
    ),
]

Further = Annotated[
    list[str] | None,
    typer.Option(
        "--extra-vars", "-e", metavar="VARS", help="Further variables: key=value, @file, or YAML/JSON. May be repeated."
    ),
]
Form = Annotated[
    str | None, typer.Option("--format", metavar="FORMAT", help="shell (the default), dotenv, github, prow or json.")
]


@app.command("list")
def list_(as_json: given.Json = False, form: given.Format = None) -> None:
    """List the profiles that come with devenv."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import catalogue

    columns = {
        "profile": "PROFILE",
        "aliases": "SHORT",
        "nodes": "NODES",
        "cpus": "CPUS",
        "memory": "MEMORY",
        "description": "DESCRIPTION",
    }

    def text(rows: list[dict[str, Any]]) -> str:
        return output.table([{**row, "memory": output.size(row["memory"])} for row in rows], columns)

    output.document(given.form(as_json, form), catalogue.describe(), text)


@app.command()
def show(profile: Wanted, changes: given.Set = None, as_json: given.Json = False, form: given.Format = None) -> None:
    """Print what a profile means, with every value filled in."""
    resolved = _resolved(profile, changes)
    output.data(output.to_text(resolved, given.form(as_json, form, ("yaml", "json"), "yaml")))
    _warn(resolved)


@app.command()
def diff(
    one: Wanted,
    other: Other = None,
    name: given.Name = None,
    as_json: given.Json = False,
) -> None:
    """Compare two profiles, or a profile with what an environment has; say what an existing environment would take."""
    from devenv.environments import status as environment_status

    old = _resolved(one, None) if other else _of_environment(name)
    found = environment_status.differences(old, _resolved(other or one, None))
    output.document("json" if as_json else "text", found, _diff_text)


def _diff_text(found: list[dict[str, Any]]) -> str:
    lines = [
        f"{'~' if change['applies'] else '!'} {change['path']}: {change['old']} -> {change['new']} ({change['why']})"
        for change in found
    ]
    return "\n".join(lines or ["no difference"])


@app.command()
def validate(profile: Wanted, changes: given.Set = None) -> None:
    """Check a profile; say what is wrong with it, and where."""
    resolved = _resolved(profile, changes)
    version, count = resolved["kubernetes"]["version"], len(resolved["nodes"])
    _require_engine(resolved)
    output.data(f"{profile}: {resolved['profile']}, {count} nodes, Kubernetes {version}")
    _warn(resolved)


@app.command()
def env(
    profile: Wanted,
    changes: given.Set = None,
    extra_vars: Further = None,
    as_json: given.Json = False,
    form: Form = None,
) -> None:
    """Print a profile's values as an env file: for a shell, a .env file, GitHub Actions or an OpenShift CI job."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import env_file

    from devenv.runs.extra_vars import read

    wanted = given.form(as_json, form, (*env_file.FORMATS, output.JSON), "shell")
    variables: dict[str, Any] = dict(env_file.of_profile(_resolved(profile, changes)))
    for value in extra_vars or []:
        variables.update(read(value))
    if wanted == output.JSON:
        output.data(output.to_text(env_file.checked(variables), output.JSON))
    else:
        output.data(env_file.render(variables, wanted))


def _resolved(wanted: str, changes: list[str] | None) -> Profile:
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

    return resolve(wanted, overrides=given.overrides(changes))


def _require_engine(resolved: Profile) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines

    engines.require(resolved)


def _warn(resolved: Profile) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import rules

    for text in rules.warnings(resolved):
        output.say(f"warning: {text}")


def _of_environment(name: str | None) -> Profile | None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state

    from devenv.environments import names

    return state.read_profile(paths.environment(names.existing(name)))
