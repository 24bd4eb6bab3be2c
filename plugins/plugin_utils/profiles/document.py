"""Read one profile document (YAML) and validate it against the schema.

A document is a plain mapping of JSON types. Every error names the file, the line if it is known, the path of the key
and the allowed values.
"""

from __future__ import annotations

import difflib
import json
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data as yaml_data
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

LARGEST = 1024 * 1024
LARGEST_TREE = 100_000
NOT_BUILT = "x-not-built"
# Remarks on values of an enum, for messages.
MARKS = "x-marks"
# In place of a path: standard input.
STDIN = "-"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KINDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "a string",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}


@dataclass(frozen=True)
class Document:
    """The content of ``path``; ``text`` serves to find the line of a wrong key."""

    path: Path
    text: str
    data: dict[str, Any]


class _Loader(yaml_data.PlainLoader):
    """Accepts JSON types only. A duplicate key is an error: one of the two would be ignored."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (pair[0] for pair in node.value):
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


# Text that looks like a date stays text: a profile has no dates.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read(path: Path) -> Document:
    """Read the document in ``path``, or in standard input if it is STDIN.

    Raises DevenvError profile_missing, profile_unreadable, profile_yaml, profile_empty or profile_invalid.
    """
    if str(path) == STDIN:
        path, text = Path("standard input"), _decoded(_standard_input(), "standard input")
    else:
        text = _text(path)
    return Document(path, text, parse(text, str(path)))


@lru_cache(maxsize=1)
def _standard_input() -> bytes:
    # Once, since two arguments of a command may name it.
    return sys.stdin.buffer.read(LARGEST)


def parse(text: str, where: str) -> dict[str, Any]:
    """Parse a mapping with text keys. Raises DevenvError profile_yaml, profile_empty or profile_invalid."""
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _yaml_error(error, where) from None
    except RecursionError:
        raise DevenvError("profile_yaml", "too deeply nested", where=where) from None
    except ValueError as error:
        raise DevenvError("profile_yaml", f"not a value that YAML allows: {error}", where=where) from None
    if data is None or data == {}:
        raise DevenvError("profile_empty", "the file is empty", where=where)
    if not isinstance(data, dict):
        raise DevenvError("profile_invalid", f"must be a mapping of keys, is {_shown_kind(data)}", where=where)
    check_plain(data, where)
    return data


def value(text: str) -> Any:
    """Parse a value from a command line as YAML. Raises yaml.YAMLError or ValueError, also for a number that is not
    plain.
    """
    parsed = yaml.load(text, Loader=_Loader)
    if yaml_data.not_plain(parsed):
        raise ValueError(f"not a plain number: {text}")
    return parsed


def check_plain(data: Any, where: str) -> None:
    """Raise DevenvError profile_invalid for loops, keys that are not text, control characters, and numbers that are not
    plain.
    """
    if _size(data, {}) > LARGEST_TREE:
        raise DevenvError("profile_invalid", "an anchor contains itself, or anchors expand to too much", where=where)
    _check_texts(data, (), where)


def validate(data: Mapping[str, Any], schema: Mapping[str, Any], where: str, text: str = "") -> None:
    """Raise the first error by path if ``data`` does not match ``schema``; one about a key not yet built goes first.

    Raises DevenvError not_built, profile_invalid or jsonschema_missing.
    """
    error = min(_validator_class()(schema).iter_errors(data), key=_rank, default=None)
    if error is None:
        return
    path, message = _described(error)
    line = _line_of(text, path) if text else 0
    place = f"{where}, line {line}" if line else where
    reason = "not_built" if error.validator == NOT_BUILT else "profile_invalid"
    raise DevenvError(reason, f"{dotted(path)}: {message}" if path else message, where=place)


def dotted(path: Iterable[Any]) -> str:
    """Return a path in the form ``nodes.worker-0.taints[1]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the word of ``known`` most similar to ``word``, or an empty string."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), "")


def _text(path: Path) -> str:
    where = str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DevenvError("profile_unreadable", "is not a regular file", where=where)
        if status.st_size > LARGEST:
            raise DevenvError("profile_unreadable", f"is larger than 1 MiB ({status.st_size} bytes)", where=where)
        content = path.read_bytes()
    except FileNotFoundError:
        raise DevenvError("profile_missing", "no such file", where=where) from None
    except (OSError, ValueError) as error:
        message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DevenvError("profile_unreadable", f"cannot be read: {message}", where=where) from None
    return _decoded(content, where)


def _decoded(content: bytes, where: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DevenvError("profile_unreadable", f"is not UTF-8 text (byte {error.start})", where=where) from None
    if "\0" in text:
        raise DevenvError("profile_unreadable", "is not text: it contains a NUL byte", where=where)
    return text


def _yaml_error(error: yaml.YAMLError, where: str) -> DevenvError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not valid YAML"
    place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
    return DevenvError("profile_yaml", str(problem), where=place)


def _size(value: Any, known: dict[int, int]) -> int:
    """Return how many values ``value`` expands to; more than LARGEST_TREE for a loop."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = LARGEST_TREE + 1  # counted if the value contains itself
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(item, known) for item in inner)
    return known[id(value)]


def _check_texts(value: Any, path: tuple[Any, ...], where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                message = f"{dotted((*path, str(key)))}: the key must be text, in quotes"
                raise DevenvError("profile_invalid", message, where=where)
            _check_texts(key, (*path, "?"), where)
            _check_texts(inner, (*path, key), where)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            _check_texts(inner, (*path, place), where)
    elif isinstance(value, yaml_data.NotPlain):
        message = f"{dotted(path)}: {value} is not a plain number; write it in decimal, or in quotes if it is text"
        raise DevenvError("profile_invalid", message, where=f"{where}, line {value.line}")
    elif isinstance(value, str) and _CONTROL.search(value):
        message = f"{dotted(path)}: control characters and line ends are not allowed"
        raise DevenvError("profile_invalid", message, where=where)


@lru_cache(maxsize=1)
def _validator_class() -> Any:
    # Deferred: jsonschema takes a sixth of a second to import, and many commands read no profile.
    try:
        import jsonschema
    except ImportError:
        raise DevenvError(
            "jsonschema_missing",
            "profiles cannot be checked without the Python library jsonschema: pip install jsonschema",
        ) from None

    def not_built(_validator: Any, rule: Any, instance: Any, _schema: Any) -> Iterator[Any]:
        if rule is True or (isinstance(rule, list) and instance in rule):
            yield jsonschema.ValidationError("not built yet")

    def is_whole(_checker: Any, value: Any) -> bool:
        # For JSON Schema, 2.0 is an integer too.
        return isinstance(value, int) and not isinstance(value, bool)

    validators: Any = jsonschema.validators  # typed only in part
    base: Any = jsonschema.Draft202012Validator
    checker = base.TYPE_CHECKER.redefine("integer", is_whole)
    return validators.extend(base, {NOT_BUILT: not_built}, type_checker=checker)


def _rank(error: Any) -> tuple[bool, list[str]]:
    return (error.validator != NOT_BUILT, [str(part) for part in error.absolute_path])


def _described(error: Any) -> tuple[list[Any], str]:
    """Return path and message of a jsonschema error."""
    path = list(error.absolute_path)
    rule, schema, value = error.validator, error.schema, error.instance
    if rule == NOT_BUILT:
        allowed = f"; allowed: {_enum(schema)}" if "enum" in schema else ""
        return path, f"{'' if error.validator_value is True else _shown(value) + ' is '}not built yet{allowed}"
    if rule == "additionalProperties":
        return _unknown_key(path, schema, value)
    if rule == "pattern" and "propertyNames" in error.absolute_schema_path:
        return [*path, value], f"the key must be {schema.get('x-form', schema['pattern'])}"
    if rule == "enum":
        near = nearest(str(value), [str(item) for item in schema["enum"]])
        return path, f"{_shown(value)} is not known{_hint(near)}; allowed: {_enum(schema)}"
    if rule == "type":
        kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        quote = ", in quotes" if "string" in kinds and isinstance(value, bool | int | float) else ""
        return path, f"must be {' or '.join(_KINDS[kind] for kind in kinds)}{quote}, is {_shown_kind(value)}"
    if rule == "pattern":
        return path, f"must be {schema.get('x-form', schema['pattern'])}{_is(value)}"
    if rule in ("minimum", "maximum"):
        return path, f"must be at {'least' if rule == 'minimum' else 'most'} {error.validator_value}{_is(value)}"
    if rule in ("minItems", "minLength"):
        return path, "must not be empty"
    if rule == "uniqueItems":
        return path, "duplicate item"
    return path, str(error.message)


def _unknown_key(path: list[Any], schema: Mapping[str, Any], value: Mapping[str, Any]) -> tuple[list[Any], str]:
    known = [name for name, rule in schema.get("properties", {}).items() if rule.get(NOT_BUILT) is not True]
    patterns = list(schema.get("patternProperties", {}))
    key = next(key for key in value if key not in known and not any(re.search(pattern, key) for pattern in patterns))
    allowed = schema["x-form"] if patterns else _listed(known) if known else "none"
    return [*path, key], f"unknown key{_hint(nearest(key, known))}; allowed: {allowed}"


def _enum(schema: Mapping[str, Any]) -> str:
    marks = schema.get(MARKS, {})
    return _listed(f"{value} ({marks[value]})" if value in marks else value for value in schema["enum"])


def _hint(near: str) -> str:
    return f" (meant {near}?)" if near else ""


def _listed(values: Iterable[Any]) -> str:
    return ", ".join("null" if value is None else str(value) for value in values)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is(value: Any) -> str:
    # An address may contain a password.
    return "" if "@" in str(value) else f", is {_shown(value)}"


def _shown_kind(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return _shown(value)


def _line_of(text: str, path: Iterable[Any]) -> int:
    """Return the line (from 1) of the key at ``path`` or of its nearest existing parent; 0 if there is none."""
    node = yaml.compose(text, Loader=_Loader)
    line = 0
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if getattr(pair[0], "value", None) == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
