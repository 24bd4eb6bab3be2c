"""Generate the pages about commands, reasons, causes and checks, and the variable tables of the roles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer.main
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, reasons
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import causes
from page_parts import BadPage, filled, page, table

from devenv.cli import app

COMMANDS = """\
Every command that works on an environment accepts `-n NAME`; the default is `DEVENV_NAME`, else the only environment
that exists. Results go to stdout, everything else to stderr. With `--json`, a command that reads prints one document; a
command that runs stages (`up`, `down`, `start`, `stop`, `validate`, `image load`) prints one object per line, the last
of them `{"type": "end", "exit": 0, "changed": N, "seconds": S}`. Failures: [exit codes](exit-codes.md) and
[failure reasons](reasons.md).
"""


def reasons_page(catalogue: Mapping[str, reasons.Reason]) -> str:
    """Return Markdown for every reason with its exit code, meaning and advice, by exit code and id."""
    rows = sorted(catalogue.values(), key=lambda reason: (reason.exit, reason.id))
    return page(
        "Reasons to fail",
        "A failure has one of these ids: in the last lines on the screen, in `runs/<time>/failure.json` of the state",
        "directory and, with `--json`, in the last object. The ids are stable.",
        "",
        *table(("id", "exit", "meaning", "advice"), ((f"`{r.id}`", r.exit, r.meaning, r.advice) for r in rows)),
    )


def exits_page(meanings: Mapping[int, str], stages: Mapping[str, int]) -> str:
    """Return Markdown for every exit code with its meaning and the stages that end with it."""
    names = {code: ", ".join(f"`{stage}`" for stage, value in stages.items() if value == code) for code in meanings}
    rows = ((code, meaning, names[code]) for code, meaning in meanings.items())
    return page("Exit codes", *table(("code", "meaning", "stages"), rows))


def troubleshooting_page(
    catalogue: Sequence[Mapping[str, Any]], failures: Mapping[str, reasons.Reason], exits: Mapping[int, str]
) -> str:
    """Return Markdown for every failure by exit code, and every first cause with an example of its log line."""
    by_exit = [
        line
        for code, meaning in exits.items()
        if (rows := [(r.meaning, r.advice, f"`{r.id}`") for r in failures.values() if r.exit == code])
        for line in (f"### Exit code {code}: {meaning}", "", *table(("failure", "advice", "reason"), rows), "")
    ]
    return page(
        "Troubleshooting",
        "A failed run ends with what happened, what to do next, and the path of its log. The word in brackets is the",
        "id of a [reason](reference/reasons.md). More help:",
        "",
        "- `devenv doctor` checks this machine and prints the commands that fix it.",
        "- `devenv up` again continues a run that failed or was killed; `devenv down` removes the environment.",
        "- `devenv status`, `devenv logs NODE` and `devenv ssh NODE` show a node; `devenv validate` lists every check.",
        "- [Gather](gather.md) collects the logs of all nodes in one archive.",
        "",
        "Search this page for a word of the message or of the log.",
        "",
        "## First causes",
        "",
        "When a cluster does not come up, devenv searches the logs of all nodes for these causes and reports the first",
        "match. Causes at the top lead to those below them.",
        "",
        *table(
            ("cause", "advice", "example of a log line"),
            (
                (f"{row['meaning']} (`{row['id']}`)", row["advice"], f"`{row['patterns'][0]['line'].strip()}`")
                for row in catalogue
            ),
        ),
        "",
        "## Failures",
        "",
        *by_exit,
    )


def checks_table(checks: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return Markdown lines for every check: when it runs and what it requires to pass."""
    rows = ((f"`{name}`", depth, text) for depth, meanings in checks.items() for name, text in meanings.items())
    return table(("check", "validation", "passes when"), rows)


def commands_page(command: Any) -> str:
    """Return Markdown for a command and all of its subcommands."""
    commands = dict(_commands(command, "devenv"))
    index = [f"- [{name}](#{name.replace(' ', '-')}): {_lines(below)[0]}" for name, below in commands.items()]
    return page("Commands", COMMANDS, *index, "", *(_section(*item) for item in commands.items()))


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    for word, below in command.commands.items():
        if word in app.ALIASES:
            continue
        if hasattr(below, "commands"):
            yield from _commands(below, f"{name} {word}")
        else:
            yield f"{name} {word}", below


def _lines(command: Any) -> list[str]:
    return [line.strip() for line in str(command.help).strip().splitlines()]


def _section(name: str, command: Any) -> str:
    parameters = [parameter for parameter in command.params if "--help" not in parameter.opts]
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    values = [str(argument.metavar or argument.name.upper()) for argument in arguments]
    usage = " ".join([name, *values, *(["[OPTIONS]"] if options else [])])
    lines = [f"## {name}", "", "```text", usage, "```", "", *_lines(command), ""]
    rows = [(f"`{value}`", _meaning(argument)) for value, argument in zip(values, arguments, strict=True)]
    rows += [(_flags(option), _meaning(option)) for option in options]
    if rows:
        lines += [*table(("option", "meaning"), rows), ""]
    return "\n".join(lines)


def _flags(option: Any) -> str:
    value = f" {option.metavar}" if option.metavar else ""
    flags = [f"{flag}{value if flag.startswith('--') else ''}" for flag in sorted(option.opts, key=len)]
    return ", ".join(f"`{flag}`" for flag in flags)


def _meaning(parameter: Any) -> str:
    text = " ".join(str(parameter.help or "").split())
    if parameter.envvar:
        text += f" Variable: `{parameter.envvar}`."
    default = parameter.default
    if isinstance(default, str | int) and not isinstance(default, bool) and default not in ("", 0):
        text += f" Default: `{default}`."
    return text


def _text(description: str | Sequence[str]) -> str:
    """Return a description (text or list of texts) as one table cell."""
    return description if isinstance(description, str) else " ".join(description)


def _value(option: Mapping[str, Any]) -> str:
    if "default" not in option:
        return "**required**" if option.get("required") else ""
    default = option["default"]
    text = default if isinstance(default, str) else yaml.safe_dump(default, default_flow_style=True, width=10**6)
    text = text.removesuffix("\n...\n").strip()
    return f"`{text}`" if text else "`''`"


def _type(option: Mapping[str, Any]) -> str:
    kind = str(option.get("type", "str"))
    return f"{kind} of {option['elements']}" if "elements" in option else kind


def _described(option: Mapping[str, Any]) -> str:
    text = _text(option.get("description", ""))
    if "choices" in option:
        text += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
    return text.strip()


def role_table(specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return Markdown for the ``argument_specs`` of a role: its entry points, if several, and a row per variable."""
    users: dict[str, list[str]] = {}
    options: dict[str, Mapping[str, Any]] = {}
    for entry, spec in specs.items():
        for name, option in (spec.get("options") or {}).items():
            users.setdefault(name, []).append(entry)
            options[name] = option
    lines: list[str] = []
    if len(specs) > 1:
        entries = ((f"`{entry}`", _text(spec.get("short_description", ""))) for entry, spec in specs.items())
        lines = [*table(("entry point", "what it does"), entries), ""]
    if not options:
        return [*lines, "No variables of its own."]
    rows = []
    for name, option in options.items():
        meaning = _described(option)
        if len(users[name]) < len(specs):
            meaning += f" ({', '.join(f'`{entry}`' for entry in users[name])})"
        rows.append((f"`{name}`", _type(option), _value(option), meaning))
    return [*lines, *table(("variable", "type", "default", "meaning"), rows)]


def readmes(root: Path) -> dict[Path, str]:
    """Return every role's README by path. Raises BadPage with the name of the file."""
    pages = {}
    for specs in sorted(root.glob("roles/*/meta/argument_specs.yml")):
        readme = specs.parents[1] / "README.md"
        entries = yaml.safe_load(specs.read_text())["argument_specs"]
        text = readme.read_text() if readme.is_file() else ""
        try:
            pages[readme] = filled(text, role_table(entries), "variables")
        except BadPage as error:
            raise BadPage(f"{readme.relative_to(root)}: {error}") from error
    return pages


def pages(root: Path) -> dict[Path, str]:
    """Return the pages by path."""
    folder, guide = root / "docs" / "reference", root / "docs" / "validate.md"
    checks = checks_table(data.read(root / "configs" / "checks.yml"))
    return {
        **readmes(root),
        guide: filled(guide.read_text(), checks, "checks"),
        folder / "commands.md": commands_page(typer.main.get_command(app.build())),
        folder / "reasons.md": reasons_page(reasons.catalogue()),
        root / "docs" / "troubleshooting.md": troubleshooting_page(
            data.read(causes.FILE), reasons.catalogue(), data.read(reasons.FILE)["exits"]
        ),
        folder / "exit-codes.md": exits_page(data.read(reasons.FILE)["exits"], reasons.stages()),
    }
