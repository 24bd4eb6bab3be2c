"""The variable tables of the roles' READMEs, made from meta/argument_specs.yml.

A README holds the two markers; what stands between them is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import page_parts
import yaml


def _text(words: object) -> str:
    """A description (text or list of texts) as one table cell."""
    lines = [words] if isinstance(words, str) else list(words) if isinstance(words, Sequence) else []
    return " ".join(str(line) for line in lines)


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


def _meaning(option: Mapping[str, Any]) -> str:
    text = _text(option.get("description", ""))
    if "choices" in option:
        text += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
    return text.strip()


def table(specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Markdown lines for the ``argument_specs`` of one role: its entry points, if several, and one row a variable."""
    users: dict[str, list[str]] = {}
    options: dict[str, Mapping[str, Any]] = {}
    for entry, spec in specs.items():
        for name, option in (spec.get("options") or {}).items():
            users.setdefault(name, []).append(entry)
            options[name] = option
    lines: list[str] = []
    several = len(specs) > 1
    if several:
        entries = ((f"`{entry}`", _text(spec.get("short_description", ""))) for entry, spec in specs.items())
        lines += [*page_parts.table(("entry point", "what it does"), entries), ""]
    if not options:
        return [*lines, "No variables of its own."]
    rows = []
    for name, option in options.items():
        meaning = _meaning(option)
        if several and len(users[name]) < len(specs):
            meaning += f" ({', '.join(f'`{entry}`' for entry in users[name])})"
        rows.append((f"`{name}`", _type(option), _value(option), meaning))
    return [*lines, *page_parts.table(("variable", "type", "default", "meaning"), rows)]


def pages(root: Path) -> dict[Path, str]:
    """Every role's README as it should be. Raises page_parts.BadPage (with the file named), OSError, yaml.YAMLError."""
    made = {}
    for specs in sorted(root.glob("roles/*/meta/argument_specs.yml")):
        readme = specs.parents[1] / "README.md"
        entries = yaml.safe_load(specs.read_text())["argument_specs"]
        text = readme.read_text() if readme.is_file() else ""
        try:
            made[readme] = page_parts.filled(text, table(entries), "variables")
        except page_parts.BadPage as error:
            raise page_parts.BadPage(f"{readme.relative_to(root)}: {error}") from error
    return made
