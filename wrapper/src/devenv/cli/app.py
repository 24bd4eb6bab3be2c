"""All commands, in the order of the help."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import typer

from devenv import errors

HELP = "From machines to a labelled, validated Kubernetes cluster, from one named profile."

_LIFE, _USE, _ABOUT = "Environments", "Use an environment", "Profiles, bundles, this machine"

# name, part of the help, where it is (a Typer is a group of commands), what the words after -- are
COMMANDS = (
    ("up", _LIFE, "runs:up", "ANSIBLE_ARGUMENT..."),
    ("down", _LIFE, "runs:down", "ANSIBLE_ARGUMENT..."),
    ("destroy", _LIFE, "runs:down", "ANSIBLE_ARGUMENT..."),
    ("start", _LIFE, "runs:start", "ANSIBLE_ARGUMENT..."),
    ("stop", _LIFE, "runs:stop", "ANSIBLE_ARGUMENT..."),
    ("upgrade", _LIFE, "runs:upgrade", "ANSIBLE_ARGUMENT..."),
    ("plan", _LIFE, "runs:plan", ""),
    ("validate", _LIFE, "runs:validate", "ANSIBLE_ARGUMENT..."),
    ("gather", _LIFE, "runs:gather", "ANSIBLE_ARGUMENT..."),
    ("node", _LIFE, "nodes:app", "ANSIBLE_ARGUMENT..."),
    ("snapshot", _LIFE, "snapshots:app", "ANSIBLE_ARGUMENT..."),
    ("certs", _LIFE, "certs:app", "ANSIBLE_ARGUMENT..."),
    ("status", _USE, "environments:status", ""),
    ("list", _USE, "environments:list_", ""),
    ("inventory", _USE, "environments:inventory", ""),
    ("kubeconfig", _USE, "environments:kubeconfig", ""),
    ("env", _USE, "environments:env", ""),
    ("ssh", _USE, "environments:ssh", "CMD..."),
    ("exec", _USE, "environments:exec_", "CMD..."),
    ("forward", _USE, "environments:forward", ""),
    ("logs", _USE, "environments:logs", ""),
    ("image", _USE, "host:image", "ANSIBLE_ARGUMENT..."),
    ("profile", _ABOUT, "profiles:app", ""),
    ("bundle", _ABOUT, "bundles:app", ""),
    ("doctor", _ABOUT, "host:doctor", ""),
    ("prune", _ABOUT, "host:prune", ""),
    ("version", _ABOUT, "host:version", ""),
)
_ALIASES = ("destroy",)


def build(words: Sequence[str] = ()) -> typer.Typer:
    """The command. When the first of ``words`` names a command, it is all that is loaded: the others would cost a
    tenth of a second.
    """
    app = typer.Typer(
        help=HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_before)
    first = words[0] if words else ""
    chosen = [row for row in COMMANDS if row[0] == first] or COMMANDS
    for name, panel, place, _ in chosen:
        _add(app, name, panel, _load(place))
    return app


def _add(app: typer.Typer, name: str, panel: str, target: Any) -> None:
    if isinstance(target, typer.Typer):
        app.add_typer(target, name=name, rich_help_panel=panel)
    else:
        app.command(name, rich_help_panel=panel, hidden=name in _ALIASES)(target)


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"devenv.cli.{module}"), name)


def _before(context: typer.Context) -> None:
    takes = {name for name, _, _, more in COMMANDS if more}
    if context.obj and context.invoked_subcommand not in takes:
        raise errors.UsageError(f"{context.invoked_subcommand} takes nothing after --")
