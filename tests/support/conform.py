"""Check that plain data matches a type, TypedDicts included."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any


def fields(kind: Any) -> dict[str, Any]:
    """Return the keys of a TypedDict with their types, without Required and NotRequired."""
    return {key: _bare(hint) for key, hint in typing.get_type_hints(kind, include_extras=True).items()}


def optional(kind: Any) -> set[str]:
    """Return the keys that data of a TypedDict may lack.

    ``__optional_keys__`` misses those whose annotations are text.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    return {key for key, hint in hints.items() if typing.get_origin(hint) is typing.NotRequired}


def differences(value: Any, kind: Any, path: str = "") -> Iterator[str]:
    """Yield one line per difference of ``value`` from the type ``kind``: missing or unknown keys, other types."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if typing.is_typeddict(kind):
        if not isinstance(value, dict):
            yield f"{path}: is not a mapping: {value!r}"
            return
        known = fields(kind)
        yield from (f"{path}.{key}: is missing" for key in sorted(set(known) - optional(kind) - set(value)))
        yield from (f"{path}.{key}: is in no type" for key in sorted(set(value) - set(known)))
        for key in sorted(set(value) & set(known)):
            yield from differences(value[key], known[key], f"{path}.{key}")
    elif origin in (list, dict):
        if type(value) is not origin:
            yield f"{path}: is not of type {origin.__name__}: {value!r}"
            return
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from differences(inner, arguments[-1], f"{path}[{key!r}]")
    elif isinstance(kind, types.UnionType) or origin is typing.Union:
        if all(list(differences(value, alternative, path)) for alternative in arguments):
            yield f"{path}: is none of {kind}: {value!r}"
    elif type(value) is not kind:
        yield f"{path}: is not of type {kind.__name__}: {value!r}"


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) in (typing.Required, typing.NotRequired) else hint
