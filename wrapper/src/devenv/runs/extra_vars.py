"""Ansible's extra variables as users type them: ``-e key=value``, ``-e @file``, or a YAML or JSON mapping."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devenv import errors

_ADVICE = "use -e key=value, -e @file or -e '{...}'"


def parse(value: str) -> Mapping[str, Any] | Path:
    """Parse one ``-e``: ``key=value ...``, ``@file``, or a YAML/JSON mapping. Raises UsageError for anything else."""
    text = value.strip()
    if text.startswith("@"):
        path = Path(text[1:]).expanduser().absolute()
        if not path.is_file():
            raise errors.UsageError("no such file", where=f"-e {value}", advice=_ADVICE)
        return path
    if text.startswith(("{", "[")):
        return _mapping(text, value)
    try:
        pairs = [word.partition("=") for word in shlex.split(text)]
    except ValueError as error:
        raise errors.UsageError(f"cannot be parsed: {error}", where=f"-e {value}") from None
    if not pairs or any(not equals or not key.isidentifier() for key, equals, _ in pairs):
        raise errors.UsageError(
            "neither key=value, @file nor a YAML or JSON mapping", where=f"-e {value}", advice=_ADVICE
        )
    return {key: item for key, _, item in pairs}


def read(value: str) -> Mapping[str, Any]:
    """Parse one ``-e`` as `parse` does, and read the file of ``@file``. Raises UsageError."""
    parsed = parse(value)
    if not isinstance(parsed, Path):
        return parsed
    try:
        return _mapping(parsed.read_text(), value)
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"cannot be read: {error}", where=f"-e {value}") from None


def _mapping(text: str, option: str) -> Mapping[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise errors.UsageError(f"not YAML: {str(error).splitlines()[0]}", where=f"-e {option}") from None
    if not isinstance(data, dict) or any(not isinstance(key, str) for key in data):
        raise errors.UsageError("not a mapping of names to values", where=f"-e {option}")
    return data
