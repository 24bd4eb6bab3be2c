"""docs/reference/commands.md, from the command itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import page_parts
import typer.main

from devenv.cli import app

HEAD = """\
Every command on an environment takes `-n NAME`; without it `DEVENV_NAME` names the environment, else it is the only one
there is. What was asked for goes to stdout, all else to stderr. With `--json` a command that looks prints one document;
one that runs (`up`, `down`, `start`, `stop`, `validate`, `image load`) prints one object a line, the last of them
`{"type": "end", "exit": 0, "changed": N, "seconds": S}`. How a command can end: [exit codes](exit-codes.md) and
[reasons to fail](reasons.md).
"""


def pages(root: Path) -> Mapping[Path, str]:
    """The page by its path."""
    return {root / "docs" / "reference" / "commands.md": render(typer.main.get_command(app.build()))}


def render(command: Any) -> str:
    """Markdown of a command and all below it."""
    found = list(_commands(command, "devenv"))
    index = [f"- [{name}](#{name.replace(' ', '-')}): {_first(one)}" for name, one in found]
    return page_parts.page("Commands", HEAD, *index, "", *(_section(name, one) for name, one in found))


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    for word, below in command.commands.items():
        if below.hidden:
            continue
        if hasattr(below, "commands"):
            yield from _commands(below, f"{name} {word}")
        else:
            yield f"{name} {word}", below


def _first(command: Any) -> str:
    return str(command.help).strip().splitlines()[0]


def _section(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and "--help" not in one.opts]
    usage = " ".join(
        [name, *(str(one.metavar or one.name.upper()) for one in arguments), *(["[OPTIONS]"] if options else [])]
    )
    lines = [
        f"## {name}",
        "",
        f"    {usage}",
        "",
        *(line.strip() for line in str(command.help).strip().splitlines()),
        "",
    ]
    rows = [(f"`{one.metavar or one.name.upper()}`", one) for one in arguments]
    rows += [(_flags(one), one) for one in options]
    if rows:
        lines += [*page_parts.table(("option", "meaning"), ((shown, _meaning(one)) for shown, one in rows)), ""]
    return "\n".join(lines)


def _flags(option: Any) -> str:
    value = f" {option.metavar}" if option.metavar else ""
    flags = [f"{flag}{value if flag.startswith('--') else ''}" for flag in sorted(option.opts, key=len)]
    return ", ".join(f"`{flag}`" for flag in flags)


def _meaning(parameter: Any) -> str:
    text = " ".join(str(parameter.help or "").split())
    if parameter.envvar:
        text += f" Variable: `{parameter.envvar}`."
    if (
        isinstance(parameter.default, str | int)
        and not isinstance(parameter.default, bool)
        and parameter.default not in ("", 0)
    ):
        text += f" Default: `{parameter.default}`."
    return text
