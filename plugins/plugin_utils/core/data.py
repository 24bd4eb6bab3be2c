"""YAML files of the collection."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(text: str | bytes) -> Any:
    """Return the content of a YAML text, read by libyaml where PyYAML has it (ten times as fast)."""
    return yaml.load(text, Loader=_Loader)


def read(file: Path) -> Any:
    """Return the content of a YAML file."""
    return parse(file.read_bytes())


class NotPlain(str):
    """A number that is not in plain decimal form, as written: 0022, 22:22, 1_000, 0x10. Versions of YAML read such
    text as different numbers, or as text. ``line`` counts from 1.
    """

    line = 0


class PlainLoader(yaml.SafeLoader):
    """Returns a number that is not in plain decimal form as NotPlain."""


_PLAIN = {"int": re.compile(r"[-+]?(0|[1-9][0-9]*)"), "float": re.compile(r"[-+]?[0-9]+\.[0-9]+([eE][-+]?[0-9]+)?")}


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    kind = node.tag.rpartition(":")[2]
    if not _PLAIN[kind].fullmatch(node.value):
        written = NotPlain(node.value)
        written.line = node.start_mark.line + 1
        return written
    return int(node.value) if kind == "int" else float(node.value)


for _kind in _PLAIN:
    PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)


def not_plain(value: Any) -> str:
    """Return the first number below ``value`` that PlainLoader found not to be plain, or an empty string. Keys count
    too.
    """
    if isinstance(value, NotPlain):
        return str(value)
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return next(filter(None, map(not_plain, inner)), "")


# For files that several functions read many times in one process.
read_once = cache(read)
