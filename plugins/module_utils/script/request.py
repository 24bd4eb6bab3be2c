"""Validate a script and its values before anything runs, and describe them so that runs can be compared."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import shlex
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.script import shell, values
from ansible_collections.devenv.lab.plugins.module_utils.script.values import Invalid

# Shorter secrets occur in too many texts to be searched for.
SHORTEST_SECRET = 4


class Call(NamedTuple):
    """A script, ready to run."""

    name: str
    path: str  # empty if the text is content
    content: bytes
    argv: list[str]  # of the interpreter, without the script
    arguments: list[str]
    chdir: str
    texts: values.Texts
    exports: list[values.Export]


def prepare(params: dict[str, Any]) -> Call:
    """Validate everything that can be known before anything runs. Raises Invalid."""
    path, content = params["path"], params["content"]
    if bool(path) == bool(content):
        raise Invalid("give either path or src")
    if path and not os.path.isabs(path):
        raise Invalid(f"path: {path} is relative; an absolute path on the host is required")
    for key in ("changed_pattern", "show_pattern"):
        try:
            re.compile(params[key])
        except re.error as error:
            raise Invalid(f"{key}: {params[key]!r} is not a valid regular expression: {error}") from None
    for when, key in (("code", "changed_codes"), ("pattern", "changed_pattern")):
        if (params["changed_when"] == when) != bool(params[key]):
            raise Invalid(f"{key} and changed_when={when} require each other")
    name = params["name"] or _default_name(path)
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z", name):
        raise Invalid(f"name: {name!r} is not a valid directory name")
    declared = values.declare(params["variables"])
    texts = values.texts(declared, params["values"], params["secrets"])
    arguments = [str(word) for word in params["arguments"]]
    for word in [*arguments, *map(str, params["check_arguments"]), params["unless"]]:
        if holds(word, texts.secrets):
            raise Invalid("arguments: a secret is among them, where every user of the host could read it")
    first = content.encode() if content else shell.first_bytes(path)
    return Call(
        name,
        path,
        content.encode(),
        list(params["interpreter"]) or shell.interpreter(first),
        arguments,
        params["chdir"] or (os.path.dirname(path) if path else os.path.expanduser("~")),
        texts,
        values.exports(params["exports"]),
    )


def _default_name(path: str) -> str:
    if not path:
        raise Invalid("name: required for a script that is given as text")
    base = re.sub(r"[^A-Za-z0-9._-]", "_", os.path.basename(path)).lstrip("._-") or "script"
    return f"{base[:80]}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def holds(text: str, secrets: dict[str, str]) -> bool:
    """Return whether a text contains one of ``secrets``, apart from those too short to search for."""
    return any(len(secret) >= SHORTEST_SECRET and secret in text for secret in secrets.values())


def missing(call: Call, params: dict[str, Any]) -> list[str]:
    """Return the required files that do not exist."""
    paths = [path for path in [call.path, *params["source"], *params["inputs"]] if path and not os.path.exists(path)]
    return paths + ([] if os.path.isdir(call.chdir) else [call.chdir])


def digest_of(path: str) -> str:
    """Return the SHA-256 of a file, or of all files below a folder and their names."""
    if not os.path.isdir(path):
        return _digest(path)
    whole = hashlib.sha256()
    for folder, below, names in os.walk(path):
        below.sort()
        for name in sorted(names):
            file = os.path.join(folder, name)
            digest = _digest(file) if os.path.isfile(file) else "no file"
            whole.update(f"{os.path.relpath(file, path)}\0{digest}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _digest(path: str) -> str:
    """Return the SHA-256 of a file, "" if it does not exist. Raises OSError: an unreadable file may have changed."""
    with contextlib.suppress(FileNotFoundError):
        return files.sha256(path)
    return ""


def description(call: Call, params: dict[str, Any], salt: str) -> dict[str, str]:
    """Return the inputs of a run, as texts to compare and to show. A secret, and a text that contains one, becomes a
    digest that cannot be guessed without ``salt``.
    """

    def hidden(text: str) -> str:
        return f"(secret {hmac.new(salt.encode(), text.encode('utf-8', 'surrogateescape'), 'sha256').hexdigest()[:16]})"

    content = hashlib.sha256(call.content).hexdigest() if call.content else digest_of(call.path)
    described = {
        "script": f"{call.path or call.name} {content}",
        "interpreter": shlex.join(call.argv),
        "arguments": shlex.join(call.arguments),
        "chdir": call.chdir,
        "exports": json.dumps([list(export) for export in call.exports]) if call.exports else "",
    }
    for kind in ("source", "inputs"):
        for path in params[kind]:
            described[f"{kind} {path}"] = digest_of(path)
    for name, text in call.texts.variables.items():
        if text is not None:
            described[f"variable {name}"] = hidden(text) if holds(text, call.texts.secrets) else text
    for name, text in call.texts.secrets.items():
        described[f"secret {name}"] = f"{call.texts.deliveries[name]} {hidden(text)}"
    return described


def shown(described: dict[str, Any]) -> str:
    """Return a description as lines, for a difference."""
    return "".join(f"{key}: {json.dumps(described[key], ensure_ascii=False)}\n" for key in sorted(described))
