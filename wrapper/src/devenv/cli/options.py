"""Options and arguments that several commands share, and their completion."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from devenv import errors
from devenv.cli import output

OWN_FILE = "devenv.yml"

# --- completion: fast, and silent on any error -----------------------------------------------------------------------


def complete_name(incomplete: str) -> list[str]:
    """Return names of environments."""
    from devenv.environments import names

    return _beginning(incomplete, names.known())


def complete_node(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return names of the environment's nodes."""
    from devenv.environments import access, names

    try:
        return _beginning(incomplete, access.hosts(names.choose(ctx.params.get("name"))))
    except (errors.Error, OSError):
        return []


def complete_cluster(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return names of the environment's clusters."""
    from devenv.environments import access, names

    try:
        return _beginning(incomplete, access.clusters(names.choose(ctx.params.get("name"))))
    except (errors.Error, OSError):
        return []


def complete_snapshot(incomplete: str) -> list[str]:
    """Return names of snapshots."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue

    return _beginning(incomplete, catalogue.names(paths.home()))


def complete_base_image(incomplete: str) -> list[str]:
    """Return names of base images."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base_images

    return _beginning(incomplete, base_images.names(paths.home()))


def complete_profile(incomplete: str) -> list[str | tuple[str, str]]:
    """Return names of profiles, those that no engine can create with that remark, and the YAML files of the working
    directory.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names

    short = sorted(path.stem for path in (paths.CONFIGS / "profiles").glob("*.yml"))
    own_files = sorted(f"./{path.name}" for path in Path().glob("*.yml"))
    beginning = _beginning(incomplete, [*short, *profile_names.canonical(), *own_files])
    remarks = {name: data.NO_ENGINE for name in beginning if name.startswith(data.not_creatable())}
    return [(name, remarks[name]) if name in remarks else name for name in beginning]


def complete_provider(incomplete: str) -> list[str]:
    """Return names of providers."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import provider_traits

    return _beginning(incomplete, provider_traits.names())


def complete_engine(incomplete: str) -> list[str]:
    """Return names of engines."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines

    return _beginning(incomplete, engines.names())


def complete_kubernetes(incomplete: str) -> list[str]:
    """Return versions of Kubernetes."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions

    return _beginning(incomplete, versions.known()[1])


def profile_or_own_file(profile: str | None, snapshot: str | None = None) -> str | None:
    """Return ``profile``; if neither it nor a snapshot is given, the file devenv.yml of the working directory."""
    if profile or snapshot or not Path(OWN_FILE).is_file():
        return profile
    output.say(f"profile: ./{OWN_FILE}")
    return f"./{OWN_FILE}"


def _beginning(incomplete: str, candidates: Iterable[str]) -> list[str]:
    return [candidate for candidate in candidates if candidate.startswith(incomplete)]


# --- values ----------------------------------------------------------------------------------------------------------

_UNITS = {"s": 1, "m": 60, "h": 3600}


def after_dashes(context: typer.Context) -> tuple[str, ...]:
    """Return the words after ``--``."""
    return tuple(context.obj or ())


def seconds(value: str | None) -> float | None:
    """Return the seconds of ``90s``, ``10m``, ``1h30m``. Raises UsageError, also for a number without a unit."""
    if value is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", value)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not total or "".join(number + unit for number, unit in parts) != value:
        raise errors.UsageError(
            f"{value!r} is not a valid time", where="--timeout", advice="use a number with a unit: 30s, 10m, 1h30m"
        )
    return total


def days(value: str) -> int:
    """Return the days of ``30d`` or ``30``. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,5})d?", value)
    if match is None:
        raise errors.UsageError(f"{value!r} is not a number of days", where="--within", advice="--within 30d")
    return int(match[1])


# Options of up that are short for --set, and their paths.
SHORT = {"provider": "provider", "engine": "kubernetes.engine", "kubernetes": "kubernetes.version"}


def overrides(values: list[str] | None, **short: str | None) -> dict[str, str]:
    """Return ``--set path=value`` options as a mapping, with the values of the options SHORT. Raises UsageError."""
    pairs = {SHORT[option]: value for option, value in short.items() if value is not None}
    for item in values or []:
        path, equals, value = item.partition("=")
        if not equals or not path:
            raise errors.UsageError(
                f"{item!r} is not path=value", where="--set", advice="--set nodes.worker-0.memory=4GiB"
            )
        if pairs.get(path, value) != value:
            raise errors.UsageError(f"two values for {path}: {pairs[path]} and {value}", where="--set")
        pairs[path] = value
    return pairs


def typed(context: typer.Context, parameter: str) -> bool:
    """Return whether a parameter was given on the command line, not by an environment variable."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def refuse(when: str, options: Mapping[str, object]) -> None:
    """Raise UsageError for the first option that was given, since it has no effect in this combination."""
    for option, value in options.items():
        if value:
            raise errors.UsageError(f"{option} has no effect {when}")


def form(as_json: bool, name: str | None = None, allowed: tuple[str, ...] = ("text", "yaml", "json")) -> str:
    """Return the output format that ``--json`` and ``--format`` select; the first of ``allowed`` is the default. Raises
    UsageError.
    """
    if name is not None and name not in allowed:
        raise errors.UsageError(
            f"{name!r} is not a valid format", where="--format", advice=f"one of: {', '.join(allowed)}"
        )
    if as_json and name not in (None, "json"):
        raise errors.UsageError(f"--json and --format {name} contradict each other")
    return "json" if as_json else name or allowed[0]


# --- options ---------------------------------------------------------------------------------------------------------

ansible_option = functools.partial(typer.Option, rich_help_panel="Options of Ansible")

Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        "-n",
        envvar="DEVENV_NAME",
        metavar="NAME",
        help="Name of the environment.",
        autocompletion=complete_name,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="CLUSTER", help="The cluster.", autocompletion=complete_cluster),
]
Node = Annotated[
    str | None,
    typer.Argument(metavar="[NODE]", help="The node; by default the only one.", autocompletion=complete_node),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        envvar="DEVENV_PROFILE",
        metavar="PROFILE",
        help="Name or file of a profile; - for standard input.",
        autocompletion=complete_profile,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Set a key of the profile, e.g. nodes.worker-0.memory=4GiB. Repeatable."
    ),
]
Provider = Annotated[
    str | None,
    typer.Option(
        "--provider", metavar="PROVIDER", help="Short for --set provider=...", autocompletion=complete_provider
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine", metavar="ENGINE", help="Short for --set kubernetes.engine=...", autocompletion=complete_engine
    ),
]
Kubernetes = Annotated[
    str | None,
    typer.Option(
        "--kubernetes",
        metavar="VERSION",
        help="Short for --set kubernetes.version=...",
        autocompletion=complete_kubernetes,
    ),
]
Snapshot = Annotated[
    str | None,
    typer.Option("--snapshot", metavar="SNAPSHOT", help="Start from this snapshot.", autocompletion=complete_snapshot),
]
Json = Annotated[bool, typer.Option("--json", help="JSON output; a run prints one object per line.")]
Format = Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="text, yaml or json.")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="Time limit: 30s, 10m, 1h30m.")]
Artifacts = Annotated[
    Path | None,
    typer.Option(
        "--artifacts", envvar="ARTIFACT_DIR", metavar="DIR", help="Write JUnit, metadata and logs to a new DIR/RUN."
    ),
]
ExtraVars = Annotated[
    list[str] | None,
    ansible_option("--extra-vars", "-e", metavar="VARS", help="Variables: key=value, @file, or YAML/JSON. Repeatable."),
]
Tags = Annotated[str, ansible_option("--tags", "-t", metavar="TAGS", help="Run only these stages (by name).")]
Limit = Annotated[
    str, ansible_option("--limit", "-l", metavar="HOSTS", help="Run only on these hosts; include localhost.")
]
Check = Annotated[bool, ansible_option("--check", "-C", help="Show what would change; change nothing.")]
Diff = Annotated[bool, ansible_option("--diff", "-D", help="Show differences of files.")]
Verbose = Annotated[
    int, ansible_option("--verbose", "-v", count=True, show_default=False, help="Show Ansible's output; more with -vv.")
]
Forks = Annotated[
    int, ansible_option("--forks", "-f", metavar="N", min=0, show_default=False, help="Number of parallel hosts.")
]
AnsibleEnv = Annotated[
    list[str] | None,
    ansible_option(
        "--ansible-env", metavar="VARIABLE", help="Pass a variable ANSIBLE_...[=VALUE], otherwise ignored. Repeatable."
    ),
]
