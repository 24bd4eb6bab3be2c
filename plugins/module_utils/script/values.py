"""Convert the declared variables of a script from Ansible's values to environment strings, and back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

TYPES = ("str", "int", "float", "bool", "list", "json", "path", "secret")
DELIVERIES = ("file", "fd", "env")
TRUE = ("true", "yes", "on", "1", "y", "t")
FALSE = ("false", "no", "off", "0", "n", "f", "")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FACT = re.compile(r"(?!ansible_)[a-z_][a-z0-9_]*\Z")
# The run itself sets these.
_RESERVED = ("BASH_ENV", "DEVENV_SCRIPT", "DEVENV_RUN")
_CONVERT: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "path": os.path.expanduser}
_READ: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "json": json.loads}
_KEYS = {"type", "default", "required", "choices", "words", "separator", "by", "description"}
_EXPORT_KEYS = {"type", "fact", "required", "words", "separator"}


class Invalid(Exception):
    """A parameter is invalid, or two contradict each other. The message names the parameter or the variable."""


class Variable(NamedTuple):
    """A declared variable. ``words`` are those for true and false, ``by`` is how a secret reaches the script."""

    name: str
    type: str
    words: list[str]
    separator: str
    default: Any
    required: bool
    choices: list[str]
    by: str


class Export(NamedTuple):
    """A variable that the script exports, and the fact that it becomes."""

    name: str
    type: str
    fact: str
    required: bool
    words: list[str]
    separator: str


class Texts(NamedTuple):
    """What the script gets: variables (None: unset), secrets, and how each secret is delivered."""

    variables: dict[str, str | None]
    secrets: dict[str, str]
    deliveries: dict[str, str]


def declare(declarations: Mapping[Any, Any]) -> list[Variable]:
    """Return the declarations: ``{NAME: TYPE}`` or ``{NAME: {type, default, required, choices, words, separator,
    by}}``. Raises Invalid.
    """
    variables = []
    for name, declaration in declarations.items():
        options = _options(name, declaration, _KEYS, "variables")
        by, choices = options.get("by", "file"), options.get("choices") or []
        is_secret = options["type"] == "secret"
        if by not in DELIVERIES:
            raise Invalid(f"variables: {name}: a secret is delivered by {', '.join(DELIVERIES)}, not by {by!r}")
        if "by" in options and not is_secret:
            raise Invalid(f"variables: {name}: by is only for the type secret")
        if is_secret and options.get("default") is not None:
            raise Invalid(f"variables: {name}: a secret cannot have a default: give it in secrets")
        if not isinstance(choices, list):
            raise Invalid(f"variables: {name}: choices must be a list")
        variable = Variable(
            name,
            options["type"],
            options["words"],
            options["separator"],
            options.get("default"),
            bool(options.get("required", False)),
            [],
            by,
        )
        variables.append(variable._replace(choices=[_text(variable, choice) for choice in choices]))
    return variables


def exports(declarations: Mapping[Any, Any]) -> list[Export]:
    """Return the variables to read back: ``{NAME: TYPE}`` or ``{NAME: {type, fact, required, words, separator}}``.
    Raises Invalid.
    """
    exported: dict[str, Export] = {}
    for name, declaration in declarations.items():
        options = _options(name, declaration, _EXPORT_KEYS, "exports")
        kind, fact = options["type"], str(options.get("fact", name.lower()))
        if kind == "secret":
            raise Invalid(
                f"exports: {name}: a secret cannot become a fact, which -vvv prints; let the script write it to a file"
            )
        if not _FACT.match(fact):
            raise Invalid(f"exports: {name}: {fact!r} is not a valid name for a fact")
        if fact in exported:
            raise Invalid(f"exports: several variables become the fact {fact}")
        required = bool(options.get("required", True))
        exported[fact] = Export(name, kind, fact, required, options["words"], options["separator"])
    return list(exported.values())


def _options(name: Any, declaration: Any, keys: set[str], parameter: str) -> dict[str, Any]:
    """Return the options of a declaration, with ``type``, ``words`` and ``separator`` set."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise Invalid(f"{parameter}: {name!r} is not a valid variable name")
    if name in _RESERVED:
        raise Invalid(f"{parameter}: {name} is reserved: the run itself sets it")
    given = {"type": declaration} if isinstance(declaration, str) else {} if declaration is None else declaration
    if not isinstance(given, dict):
        raise Invalid(f"{parameter}: {name} is declared by a type or a mapping, not by {type(given).__name__}")
    unknown = sorted(str(key) for key in set(given) - keys)
    if unknown:
        raise Invalid(f"{parameter}: {name} has unknown keys: {', '.join(unknown)} (known: {', '.join(sorted(keys))})")
    options = {"type": "str", "words": ["true", "false"], **given, "separator": str(given.get("separator", " "))}
    if options["type"] not in TYPES:
        raise Invalid(f"{parameter}: {name} has the unknown type {options['type']!r} (known: {', '.join(TYPES)})")
    words = options["words"]
    if not isinstance(words, list) or len(words) != 2 or not all(isinstance(word, str) for word in words):
        raise Invalid(f"{parameter}: {name}: words are two strings, for true and for false (quote yes and no)")
    return options


def texts(declared: list[Variable], values: Mapping[str, Any], secrets: Mapping[str, Any]) -> Texts:
    """Return what the script gets for these values. Raises Invalid, with everything that is missing or unknown."""
    is_secret = {variable.name: variable.type == "secret" for variable in declared}
    wrong = [f"{name} is a secret: give it in secrets" for name in values if is_secret.get(name)]
    wrong += [f"{name} is not declared as a secret" for name in secrets if is_secret.get(name) is False]
    wrong += [f"{name} is not declared" for name in [*values, *secrets] if name not in is_secret]
    if wrong:
        raise Invalid(f"values: {'; '.join(sorted(wrong))} (declared: {', '.join(sorted(is_secret)) or 'nothing'})")
    result = Texts({}, {}, {})
    missing = []
    for variable in declared:
        name = variable.name
        value = (secrets if is_secret[name] else values).get(name)
        value = variable.default if value is None else value
        if value is None:
            missing += [name] if variable.required else []
            result.variables[name] = None
            continue
        text = _text(variable, value)
        if is_secret[name]:
            result.secrets[name], result.deliveries[name] = text, variable.by
        elif variable.choices and text not in variable.choices:
            raise Invalid(f"values: {name} is {text!r}, but must be one of {', '.join(variable.choices)}")
        else:
            result.variables[name] = text
    if missing:
        raise Invalid(f"values: no value for {', '.join(missing)}")
    return result


def _refuse(variable: Variable, value: Any, why: str) -> Invalid:
    # No message shows the value of a secret.
    shown = "" if variable.type == "secret" else f" {value!r}"
    return Invalid(f"values: {variable.name}:{shown} {why}")


def _text(variable: Variable, value: Any) -> str:
    text = _converted(variable, value)
    if "\0" in text:
        raise _refuse(variable, value, "has a NUL character, which an environment variable cannot contain")
    return text


def _converted(variable: Variable, value: Any) -> str:
    kind = variable.type
    if kind == "bool":
        truth = _truth(str(value))
        if truth is None:
            raise _refuse(variable, value, "is neither true nor false")
        return variable.words[0 if truth else 1]
    if kind == "list":
        return _list(variable, value)
    if kind == "json" or (kind == "secret" and isinstance(value, (dict, list))):
        return _json(variable, value)
    if isinstance(value, bool):
        raise _refuse(variable, value, "is a boolean: quote it, or declare the type bool")
    if not isinstance(value, (str, int, float)):
        raise _refuse(variable, value, f"is not a valid {kind}")
    try:
        return str(_CONVERT.get(kind, str)(str(value)))
    except ValueError:
        raise _refuse(variable, value, f"is not a valid {kind}") from None


def _truth(text: str) -> bool | None:
    word = text.strip().lower()
    return word in TRUE if word in TRUE + FALSE else None


def _list(variable: Variable, value: Any) -> str:
    if not isinstance(value, (list, tuple)):
        raise _refuse(variable, value, "is not a list")
    items = []
    for item in value:
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            raise _refuse(variable, item, "is neither a string nor a number; declare the type json")
        if variable.separator in str(item) or str(item) == "":
            raise _refuse(variable, item, f"cannot be in a list that is separated by {variable.separator!r}")
        items.append(str(item))
    return variable.separator.join(items)


def _json(variable: Variable, value: Any) -> str:
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            raise _refuse(variable, value, "is not valid JSON") from None
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_back(export: Export, text: str) -> Any:
    """Return the fact of an exported text. Raises Invalid if the text is not of the export's type."""
    invalid = Invalid(f"exports: {export.name}: {text[:80]!r} is not a valid {export.type}")
    if export.type == "list":
        parts = text.split() if export.separator == " " else text.split(export.separator)
        return [part for part in parts if part]
    if export.type == "bool":
        truth = text == export.words[0] if text in export.words else _truth(text)
        if truth is None:
            raise invalid
        return truth
    try:
        return _READ.get(export.type, str)(text)
    except ValueError:
        raise invalid from None
