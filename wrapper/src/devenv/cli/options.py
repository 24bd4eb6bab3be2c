"""Options and arguments that several commands share, and what they complete to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from devenv import errors

# --- completion: quick, and silent when anything is wrong ------------------------------------------------------------


def complete_name(incomplete: str) -> list[str]:
    """Names of environments."""
    from devenv.environments import names

    return [name for name in names.known() if name.startswith(incomplete)]


def complete_node(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the environment's nodes."""
    from devenv.environments import access, names

    try:
        found = access.hosts(names.choose(ctx.params.get("name")))
    except (errors.Error, OSError):
        return []
    return [node for node in found if node.startswith(incomplete)]


def complete_snapshot(incomplete: str) -> list[str]:
    """Names of snapshots."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue

    return [name for name in catalogue.names(paths.home()) if name.startswith(incomplete)]


def complete_profile(incomplete: str) -> list[str]:
    """Names of profiles, and files that may be one."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names

    short = sorted(path.stem for path in (paths.CONFIGS / "profiles").glob("*.yml"))
    found = [name for name in [*short, *profile_names.canonical()] if name.startswith(incomplete)]
    return [
        *found,
        *(f"./{path.name}" for path in sorted(Path().glob("*.yml")) if f"./{path.name}".startswith(incomplete)),
    ]


# --- values ----------------------------------------------------------------------------------------------------------

_UNITS = {"s": 1, "m": 60, "h": 3600}


def rest(context: typer.Context) -> tuple[str, ...]:
    """The words after ``--``."""
    return tuple(context.obj or ())


def seconds(value: str | None) -> float | None:
    """Seconds of ``90s``, ``10m``, ``1h30m``. Raises UsageError: a number without a unit is refused."""
    if value is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", value)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not total or "".join(number + unit for number, unit in parts) != value:
        raise errors.UsageError(
            f"{value!r} is no time", where="--timeout", advice="give a number with a unit: 30s, 10m, 1h30m"
        )
    return total


def days(value: str) -> int:
    """Days of ``30d`` or ``30``. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,5})d?", value)
    if match is None:
        raise errors.UsageError(f"{value!r} is no number of days", where="--within", advice="--within 30d")
    return int(match[1])


def overrides(values: list[str] | None) -> dict[str, str]:
    """``--set path=value`` as a mapping. Raises UsageError."""
    found = {}
    for item in values or []:
        path, equals, value = item.partition("=")
        if not equals or not path:
            raise errors.UsageError(
                f"{item!r} is not path=value", where="--set", advice="--set nodes.worker-0.memory=4GiB"
            )
        found[path] = value
    return found


# --- options ---------------------------------------------------------------------------------------------------------

Name = Annotated[
    str | None,
    typer.Option(
        "--name", "-n", envvar="DEVENV_NAME", metavar="NAME", help="Which environment.", autocompletion=complete_name
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        envvar="DEVENV_PROFILE",
        metavar="PROFILE",
        help="Name or file of a profile.",
        autocompletion=complete_profile,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a key of the profile, e.g. nodes.worker-0.memory=4GiB. May be repeated.",
    ),
]
Snapshot = Annotated[
    str | None,
    typer.Option(
        "--snapshot",
        metavar="SNAPSHOT",
        help="Start the new environment from this snapshot.",
        autocompletion=complete_snapshot,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON; of a run, one object a line.")]
Format = Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="text, yaml or json.")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="End after this time: 30s, 10m, 1h30m.")]
Artifacts = Annotated[
    Path | None,
    typer.Option(
        "--artifacts",
        envvar="ARTIFACT_DIR",
        metavar="DIR",
        help="Put JUnit, metadata and logs into a new folder of DIR.",
    ),
]
ExtraVars = Annotated[
    list[str] | None,
    typer.Option(
        "--extra-vars", "-e", metavar="VARS", help="Ansible variables: key=value, @file, or YAML/JSON. May be repeated."
    ),
]
Tags = Annotated[str, typer.Option("--tags", "-t", metavar="TAGS", help="Only tasks with these tags (Ansible).")]
Limit = Annotated[str, typer.Option("--limit", "-l", metavar="HOSTS", help="Only these hosts (Ansible).")]
Check = Annotated[bool, typer.Option("--check", "-C", help="Say what would change, change nothing (Ansible).")]
Diff = Annotated[bool, typer.Option("--diff", "-D", help="Show differences of files (Ansible).")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Ansible's own output; more of it with -vv and -vvv.")
]
Forks = Annotated[int, typer.Option("--forks", "-f", metavar="N", help="Hosts at once (Ansible).", min=0)]


def form(
    as_json: bool, given: str | None, allowed: tuple[str, ...] = ("text", "yaml", "json"), default: str = "text"
) -> str:
    """The form of output that ``--json`` and ``--format`` ask for. Raises UsageError."""
    if given is not None and given not in allowed:
        raise errors.UsageError(f"{given!r} is no format", where="--format", advice=f"one of: {', '.join(allowed)}")
    if as_json and given not in (None, "json"):
        raise errors.UsageError(f"--json and --format {given} ask for different things")
    return "json" if as_json else given or default
