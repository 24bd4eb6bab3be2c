"""All commands, in the order of the help."""

from __future__ import annotations

from typing import Any

import typer

from devenv import errors
from devenv.cli import bundles, environments, host, profiles, runs

HELP = "From machines to a labelled, validated Kubernetes cluster, from one named profile."

_LIFE, _USE, _ABOUT = "Environments", "Use an environment", "Profiles, bundles, this machine"
_TAKE_MORE = frozenset({"up", "down", "destroy", "start", "stop", "validate", "image", "ssh", "exec"})


def build() -> typer.Typer:
    """The command."""
    app = typer.Typer(
        help=HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_before)
    table: list[tuple[str, str, Any, dict[str, Any]]] = [
        ("up", _LIFE, runs.up, {}),
        ("down", _LIFE, runs.down, {}),
        ("destroy", _LIFE, runs.down, {"hidden": True}),
        ("start", _LIFE, runs.start, {}),
        ("stop", _LIFE, runs.stop, {}),
        ("plan", _LIFE, runs.plan, {}),
        ("validate", _LIFE, runs.validate, {}),
        ("status", _USE, environments.status, {}),
        ("list", _USE, environments.list_, {}),
        ("inventory", _USE, environments.inventory, {}),
        ("kubeconfig", _USE, environments.kubeconfig, {}),
        ("env", _USE, environments.env, {}),
        ("ssh", _USE, environments.ssh, {}),
        ("exec", _USE, environments.exec_, {}),
        ("logs", _USE, environments.logs, {}),
        ("doctor", _ABOUT, host.doctor, {}),
        ("prune", _ABOUT, host.prune, {}),
        ("version", _ABOUT, host.version, {}),
    ]
    for name, panel, function, more in table:
        app.command(name, rich_help_panel=panel, **more)(function)
    app.add_typer(host.image, name="image", rich_help_panel=_USE)
    app.add_typer(profiles.app, name="profile", rich_help_panel=_ABOUT)
    app.add_typer(bundles.app, name="bundle", rich_help_panel=_ABOUT)
    return app


def _before(context: typer.Context) -> None:
    if context.obj and context.invoked_subcommand not in _TAKE_MORE:
        raise errors.UsageError(f"{context.invoked_subcommand} takes nothing after --")
