"""Convert the declared variables of a script: from Ansible's values to texts of the environment, and back."""

from __future__ import annotations

import json
import os
import re
from typing import Any, NamedTuple

TYPES = ("str", "int", "float", "bool", "list", "json", "path", "secret")
WAYS = ("file", "fd", "env")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
FACT = re.compile(r"[a-z_][a-z0-9_]*\Z")
# What the run of a script itself sets.
OWN = ("BASH_ENV", "DEVENV_SCRIPT", "DEVENV_RUN")
TRUE = ("true", "yes", "on", "1", "y", "t")
FALSE = ("false", "no", "off", "0", "n", "f", "")

_KEYS = {"type", "default", "required", "choices", "words", "separator", "by", "description"}
_EXPORT_KEYS = {"type", "fact", "required", "words", "separator"}


class Invalid(Exception):
    """What was given does not fit together. The text names the parameter or the variable."""


class Variable(NamedTuple):
    """A declared variable. ``words`` are those for true and false, ``by`` is how a secret reaches the script."""

    name: str
    type: str
    default: Any
    required: bool
    choices: list[str]
    words: list[str]
    separator: str
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
    """What the script gets: variables (None: unset), secrets, and the way of each secret."""

    variables: dict[str, str | None]
    secrets: dict[str, str]
    ways: dict[str, str]


def _options(name: Any, given: Any, keys: set[str], what: str) -> dict[str, Any]:
    if not isinstance(name, str) or not NAME.match(name):
        raise Invalid(f"{what}: {name!r} is no name of a variable")
    if name in OWN:
        raise Invalid(f"{what}: {name} is set by the run itself")
    options = {"type": given} if isinstance(given, str) else {} if given is None else given
    if not isinstance(options, dict):
        raise Invalid(f"{what}: {name} is declared by a type or a mapping, not by {type(given).__name__}")
    unknown = sorted(str(key) for key in set(options) - keys)
    if unknown:
        raise Invalid(f"{what}: {name} has unknown keys: {', '.join(unknown)} (known: {', '.join(sorted(keys))})")
    if options.get("type", "str") not in TYPES:
        raise Invalid(f"{what}: {name} has the unknown type {options['type']!r} (known: {', '.join(TYPES)})")
    return dict(options)


def _words(name: str, options: dict[str, Any]) -> list[str]:
    words = options.get("words", ["true", "false"])
    if not isinstance(words, list) or len(words) != 2 or [word for word in words if not isinstance(word, str)]:
        raise Invalid(f"variables: {name}: words are two texts, for true and for false (quote yes and no)")
    return list(words)


def declare(given: dict[str, Any]) -> list[Variable]:
    """Return the declarations: ``{NAME: TYPE}`` or ``{NAME: {type, default, required, choices, words, separator,
    by}}``.

    Raises Invalid.
    """
    found = []
    for name, value in given.items():
        options = _options(name, value, _KEYS, "variables")
        kind, by = options.get("type", "str"), options.get("by", "file")
        if by not in WAYS:
            raise Invalid(f"variables: {name}: a secret goes by {', '.join(WAYS)}, not by {by!r}")
        if "by" in options and kind != "secret":
            raise Invalid(f"variables: {name}: by is for the type secret")
        if kind == "secret" and options.get("default") is not None:
            raise Invalid(f"variables: {name}: a secret has no default: give it in secrets")
        choices = options.get("choices") or []
        if not isinstance(choices, list):
            raise Invalid(f"variables: {name}: choices is a list")
        one = Variable(
            name,
            kind,
            options.get("default"),
            bool(options.get("required", False)),
            [],
            _words(name, options),
            str(options.get("separator", " ")),
            by,
        )
        found.append(one._replace(choices=[_text(one, choice) for choice in choices]))
    return found


def exports(given: dict[str, Any]) -> list[Export]:
    """Return the variables to read back: ``{NAME: TYPE}`` or ``{NAME: {type, fact, required, words, separator}}``.

    Raises Invalid.
    """
    found = []
    for name, value in given.items():
        options = _options(name, value, _EXPORT_KEYS, "exports")
        if options.get("type", "str") == "secret":
            raise Invalid(
                f"exports: {name}: a secret cannot become a fact, which -vvv prints; let the script write a file"
            )
        fact = str(options.get("fact", name.lower()))
        if not FACT.match(fact) or fact.startswith("ansible_"):
            raise Invalid(f"exports: {name}: {fact!r} is no name for a fact")
        words, separator = _words(name, options), str(options.get("separator", " "))
        found.append(
            Export(name, options.get("type", "str"), fact, bool(options.get("required", True)), words, separator)
        )
    facts = [one.fact for one in found]
    twice = sorted({fact for fact in facts if facts.count(fact) > 1})
    if twice:
        raise Invalid(f"exports: several variables become the fact {twice[0]}")
    return found


def texts(declared: list[Variable], values: dict[str, Any], secrets: dict[str, Any]) -> Texts:
    """Return what the script gets for these values. Raises Invalid, with all that is missing or unknown."""
    names = {one.name for one in declared if one.type != "secret"}
    hidden = {one.name for one in declared if one.type == "secret"}
    wrong = [f"{name} is a secret: give it in secrets" for name in values if name in hidden]
    wrong += [f"{name} is not declared as a secret" for name in secrets if name in names]
    wrong += [f"{name} is not declared" for name in [*values, *secrets] if name not in names | hidden]
    if wrong:
        raise Invalid(
            f"values: {'; '.join(sorted(wrong))} (declared: {', '.join(sorted(names | hidden)) or 'nothing'})"
        )
    found = Texts({}, {}, {})
    missing = []
    for one in declared:
        value = secrets.get(one.name) if one.type == "secret" else values.get(one.name)
        value = one.default if value is None else value
        if value is None:
            missing += [one.name] if one.required else []
            found.variables[one.name] = None
        elif one.type == "secret":
            found.secrets[one.name] = _text(one, value)
            found.ways[one.name] = one.by
        else:
            found.variables[one.name] = _text(one, value)
    if missing:
        raise Invalid(f"values: no value for {', '.join(missing)}")
    for one in declared:
        text = found.variables.get(one.name)
        if one.choices and text is not None and text not in one.choices:
            raise Invalid(f"values: {one.name} is {text!r}, and may be {', '.join(one.choices)}")
    return found


def _refuse(one: Variable, value: Any, why: str) -> Invalid:
    # The value of a secret stands in no message.
    shown = "" if one.type == "secret" else f" {value!r}"
    return Invalid(f"values: {one.name}:{shown} {why}")


def _text(one: Variable, value: Any) -> str:
    text = _converted(one, value)
    if "\0" in text:
        raise _refuse(one, value, "has a NUL character, which no variable can have")
    return text


def _converted(one: Variable, value: Any) -> str:
    if one.type == "bool":
        return _truth(one, value)
    if one.type == "list":
        return _list(one, value)
    if one.type == "json" or (one.type == "secret" and isinstance(value, (dict, list))):
        return _json(one, value)
    if isinstance(value, bool):
        raise _refuse(one, value, "is a truth value: quote it, or declare the type bool")
    if not isinstance(value, (str, int, float)):
        raise _refuse(one, value, f"is no {one.type}")
    text = str(value)
    if one.type == "path":
        return os.path.expanduser(text)
    if one.type in ("int", "float"):
        try:
            return str(int(text) if one.type == "int" else float(text))
        except ValueError:
            raise _refuse(one, value, f"is no {one.type}") from None
    return text


def _truth(one: Variable, value: Any) -> str:
    word = str(value).strip().lower()
    if word in TRUE:
        return one.words[0]
    if word in FALSE:
        return one.words[1]
    raise _refuse(one, value, "is neither true nor false")


def _list(one: Variable, value: Any) -> str:
    if not isinstance(value, (list, tuple)):
        raise _refuse(one, value, "is no list")
    items = []
    for item in value:
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            raise _refuse(one, item, "is in a list of words; declare the type json")
        if one.separator in str(item) or str(item) == "":
            raise _refuse(one, item, f"cannot stand in a list that is separated by {one.separator!r}")
        items.append(str(item))
    return one.separator.join(items)


def _json(one: Variable, value: Any) -> str:
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            raise _refuse(one, value, "is no JSON") from None
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_back(one: Export, text: str) -> Any:
    """Return the fact of an exported text. Raises Invalid when the text is not of its type."""
    try:
        if one.type == "int":
            return int(text)
        if one.type == "float":
            return float(text)
        if one.type == "json":
            return json.loads(text)
    except ValueError:
        raise Invalid(f"exports: {one.name}: {text[:80]!r} is no {one.type}") from None
    if one.type == "list":
        parts = text.split() if one.separator == " " else text.split(one.separator)
        return [part for part in parts if part]
    if one.type == "bool":
        return _read_truth(one, text)
    return text


def _read_truth(one: Export, text: str) -> bool:
    if text in one.words:
        return text == one.words[0]
    if text.strip().lower() in TRUE + FALSE:
        return text.strip().lower() in TRUE
    raise Invalid(f"exports: {one.name}: {text[:80]!r} is neither true nor false")
