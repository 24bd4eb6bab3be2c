"""Ansible's extra variables as users type them: ``-e key=value``, ``-e @file``, or a YAML or JSON mapping."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

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


def read(value: str, *, encrypted: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Parse one ``-e`` as `parse` does, and read the file of ``@file``. Raises UsageError, also for a file that is
    encrypted with ansible-vault, unless ``encrypted`` is what to return for it.
    """
    parsed = parse(value)
    if not isinstance(parsed, Path):
        return parsed
    try:
        text = parsed.read_text()
        if encrypted is not None and text.startswith("$ANSIBLE_VAULT"):
            return encrypted
        return _mapping(text, value)
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"cannot be read: {error}", where=f"-e {value}") from None


def in_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the values of ``-e`` and ``--extra-vars`` in the arguments for ansible-playbook. Raises UsageError."""
    parser = _Parser(add_help=False, prog="--")
    parser.add_argument("-e", "--extra-vars", action="append", default=[])
    # Options without a value, since -De x=1 is -D -e x=1.
    parser.add_argument(*["-v", "-C", "-D", "-b", "-K", "-k", "-J"], action="store_true", dest="others")
    values: list[str] = parser.parse_known_args(list(arguments))[0].extra_vars
    return values


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise errors.UsageError(message, where="arguments after --")


def _mapping(text: str, option: str) -> Mapping[str, Any]:
    import yaml
    from ansible_collections.devenv.lab.plugins.plugin_utils.core.data import PlainLoader

    try:
        # A number that is not plain stays as written: Ansible would convert it.
        data = yaml.load(text, Loader=PlainLoader)
    except yaml.YAMLError as error:
        raise errors.UsageError(f"not YAML: {str(error).splitlines()[0]}", where=f"-e {option}") from None
    if not isinstance(data, dict) or any(not isinstance(key, str) for key in data):
        raise errors.UsageError("not a mapping of names to values", where=f"-e {option}")
    return data
