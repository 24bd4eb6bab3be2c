"""The variable tables of the roles' READMEs, made from meta/argument_specs.yml.

A README holds the two markers; what stands between them is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

BEGIN, END = "<!-- variables:begin -->", "<!-- variables:end -->"


class BadReadme(Exception):
    """A README without exactly one pair of markers."""


def _text(words: object) -> str:
    """A description (text or list of texts) as one table cell."""
    lines = [words] if isinstance(words, str) else list(words) if isinstance(words, Sequence) else []
    return " ".join(" ".join(str(line).split()) for line in lines).replace("|", "\\|")


def _value(option: Mapping[str, Any]) -> str:
    if "default" not in option:
        return "**required**" if option.get("required") else ""
    default = option["default"]
    text = default if isinstance(default, str) else yaml.safe_dump(default, default_flow_style=True, width=10**6)
    text = " ".join(text.removesuffix("\n...\n").split()).replace("|", "\\|")
    return f"`{text}`" if text else "`''`"


def _type(option: Mapping[str, Any]) -> str:
    kind = str(option.get("type", "str"))
    return f"{kind} of {option['elements']}" if "elements" in option else kind


def _meaning(option: Mapping[str, Any]) -> str:
    text = _text(option.get("description", ""))
    if "choices" in option:
        text += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
    return text.strip()


def table(specs: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown for the ``argument_specs`` of one role: its entry points, if several, and one row a variable."""
    users: dict[str, list[str]] = {}
    options: dict[str, Mapping[str, Any]] = {}
    for entry, spec in specs.items():
        for name, option in (spec.get("options") or {}).items():
            users.setdefault(name, []).append(entry)
            options[name] = option
    lines: list[str] = []
    several = len(specs) > 1
    if several:
        lines += ["| entry point | what it does |", "| --- | --- |"]
        lines += [f"| `{entry}` | {_text(spec.get('short_description', ''))} |" for entry, spec in specs.items()]
        lines.append("")
    if not options:
        return "\n".join([*lines, "No variables of its own."])
    lines += ["| variable | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, option in options.items():
        meaning = _meaning(option)
        if several and len(users[name]) < len(specs):
            meaning += f" ({', '.join(f'`{entry}`' for entry in users[name])})"
        lines.append(f"| `{name}` | {_type(option)} | {_value(option)} | {meaning} |")
    return "\n".join(lines)


def filled(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """``page`` with ``text`` between its markers. Raises BadReadme when the markers are not there exactly once."""
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end) or begin in rest or end in after:
        raise BadReadme(f"wants one {begin} and, after it, one {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def pages(root: Path) -> dict[Path, str]:
    """Every role's README as it should be. Raises BadReadme (with the file named), OSError, yaml.YAMLError."""
    made = {}
    for specs in sorted(root.glob("roles/*/meta/argument_specs.yml")):
        readme = specs.parents[1] / "README.md"
        entries = yaml.safe_load(specs.read_text())["argument_specs"]
        try:
            made[readme] = filled(readme.read_text() if readme.is_file() else "", table(entries))
        except BadReadme as error:
            raise BadReadme(f"{readme.relative_to(root)}: {error}") from error
    return made
