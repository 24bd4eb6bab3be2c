"""All commands, in the order of the help."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from devenv import errors
from devenv.cli import output

# One line, as the help fits on one screen.
HELP = "Turn machines into validated Kubernetes clusters. More: devenv COMMAND --help"

_LIFE, _USE, _ABOUT = "Environments", "Use an environment", "Profiles, bundles, this machine"

# name, group in the help, location (a Typer is a group of commands), meaning of the words after --
COMMANDS = (
    ("up", _LIFE, "runs:up", "ANSIBLE_ARGUMENT..."),
    ("down", _LIFE, "runs:down", "ANSIBLE_ARGUMENT..."),
    ("destroy", _LIFE, "runs:down", "ANSIBLE_ARGUMENT..."),
    ("extend", _LIFE, "runs:extend", "ANSIBLE_ARGUMENT..."),
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
    ("shell", _USE, "environments:shell", ""),
    ("forward", _USE, "environments:forward", ""),
    ("logs", _USE, "environments:logs", ""),
    ("image", _USE, "host:image", "ANSIBLE_ARGUMENT..."),
    ("base-image", _ABOUT, "base_images:app", "ANSIBLE_ARGUMENT..."),
    ("test", _USE, "tests:app", "PYTEST_ARGUMENT..."),
    ("profile", _ABOUT, "profiles:app", ""),
    ("bundle", _ABOUT, "bundles:app", ""),
    ("doctor", _ABOUT, "host:doctor", ""),
    ("prune", _ABOUT, "host:prune", ""),
    ("version", _ABOUT, "host:version", ""),
)
ALIASES = ("destroy",)
# Not in the list of commands, which fits on one screen.
HIDDEN = (*ALIASES, "version")
# Commands of groups that run no playbook.
_READ_ONLY = ("node list", "snapshot list", "snapshot rm", "certs list", "base-image list", "base-image rm")


class _Group(TyperGroup):
    """The group of all commands. Its help omits its own options (help and completion), to fit on one screen."""

    def get_params(self, ctx: Any) -> Any:
        params: list[Any] = list(super().get_params(ctx))
        for param in params:
            param.hidden = True
        return params

    def get_usage(self, ctx: Any) -> str:
        """Return the usage and the help: Typer would print an empty line between them."""
        return f"{super().get_usage(ctx)}\n{HELP}"

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _show_flags_without_type(command, ctx)
        return command


def _show_flags_without_type(command: Any, ctx: Any) -> None:
    """Let the help show `--json`, not `--json <bool>`: a flag takes no value."""
    for option in (*command.params, command.get_help_option(ctx)):
        if getattr(option, "is_flag", False) or getattr(option, "count", False):
            option.metavar = ""
    for child in getattr(command, "commands", {}).values():
        _show_flags_without_type(child, ctx)


def build(words: Sequence[str] = ()) -> typer.Typer:
    """Return the command. If the first of ``words`` names a command, only that one is loaded, because the others
    would cost a tenth of a second.
    """
    app = typer.Typer(
        cls=_Group,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_main)
    first = words[0] if words else ""
    for name, panel, location, _ in [row for row in COMMANDS if row[0] == first] or COMMANDS:
        module, _, attribute = location.partition(":")
        target = getattr(importlib.import_module(f"devenv.cli.{module}"), attribute)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel, hidden=name in HIDDEN)(target)
    return app


def run(before: Sequence[str], after: Sequence[str]) -> object:
    """Run the command with the words ``before`` a ``--``, and those ``after`` it for the program that it runs."""
    command = " ".join(before[:2]) if " ".join(before[:2]) in _READ_ONLY else "".join(before[:1])
    if after and command in {*_READ_ONLY, *(name for name, _, _, meaning in COMMANDS if not meaning)}:
        raise errors.UsageError(f"{command} accepts no arguments after --")
    return build(before)(before, prog_name="devenv", standalone_mode=False, obj=tuple(after))


def _main(
    show_version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.", is_eager=True)] = False,
) -> None:
    if show_version:
        from devenv import __version__

        output.data(f"devenv {__version__}")
        raise typer.Exit
