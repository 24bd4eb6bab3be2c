"""Variables as an env file for a shell, a dotenv reader, GitHub Actions or an OpenShift CI job; a profile as variables.

Formats and where they are defined:

- ``shell``: POSIX shell, single quotes (The Open Group, Shell Command Language, 2.2.2).
- ``dotenv``: no standard; what its readers agree on (see `_dotenv`).
- ``github``: the file that ``$GITHUB_ENV`` names (GitHub Docs, "Workflow commands", multiline strings).
- ``prow``: the mapping ``env`` of a test's ``steps`` in a ci-operator configuration, whose jobs Prow runs; what becomes
  a container's variable there is expanded by the kubelet (Kubernetes API, EnvVar.value).
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What the runner of GitHub Actions does not let a file set.
_GITHUB_OWN = re.compile(r"(GITHUB|RUNNER)_.*|NODE_OPTIONS")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")


def text(value: Any) -> str:
    """A value as the text of a variable: truth as true or false, lists and mappings as JSON, None as nothing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return str(value)


def _shell(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}\n"


def _dotenv(name: str, value: str) -> str:
    """A line that python-dotenv, Docker Compose, Node and a shell read alike, wherever one exists.

    They agree on words without special characters, on single quotes around what has neither a single quote, ``${`` nor
    a backslash that could escape, and on double quotes around what has no special character but single quotes and
    newlines. The rest is written for python-dotenv, which knows an escape for each: a backslash before quotes and
    backslashes, and ``${:-$}{`` for ``${``, which it would replace even within single quotes.
    """
    if _PLAIN.fullmatch(value):
        return f"{name}={value}\n"
    literal = "'" not in value and "${" not in value and "\\\\" not in value and not value.endswith("\\")
    # A carriage return would not survive as it is: readers make one newline of both.
    if literal and "\r" not in value:
        return f"{name}='{value}'\n"
    if not re.search(r'[\\"$`\r]', value):
        return f'{name}="{value}"\n'
    escaped = re.sub(r'(["\\])', r"\\\1", value).replace("\r", "\\r").replace("${", "${:-$}{")
    return f'{name}="{escaped}"\n'


def _github(name: str, value: str) -> str:
    if _GITHUB_OWN.fullmatch(name.upper()):
        raise DevenvError("env_file_invalid", "GitHub Actions lets no step set this variable", where=name)
    if "\n" not in value and "\r" not in value:
        return f"{name}={value}\n"
    # No line of a value is a digest of the whole value.
    end = f"END_{hashlib.sha256(value.encode()).hexdigest()[:32]}"
    return f"{name}<<{end}\n{value}\n{end}\n"


def _prow(name: str, value: str) -> str:
    # The kubelet makes $(NAME) the value of NAME and $$ one dollar.
    kept = value.replace("$", "$$") if "$(" in value or "$$" in value else value
    return f"  {name}: {json.dumps(kept, ensure_ascii=False)}\n"


_LINES: dict[str, Callable[[str, str], str]] = {
    "shell": _shell,
    "dotenv": _dotenv,
    "github": _github,
    "prow": _prow,
}
FORMATS = tuple(_LINES)


def render(variables: Mapping[str, Any], form: str) -> str:
    """The file's text, in the order of ``variables``. ``form`` is one of ``FORMATS``.

    Raises DevenvError (env_file_invalid) for a name that is none, a value that no variable can have, an unknown format.
    """
    if form not in _LINES:
        raise DevenvError("env_file_invalid", f"{form!r} is no format of an env file: {', '.join(FORMATS)}")
    lines = [_LINES[form](name, value) for name, value in checked(variables).items()]
    if form == "prow":
        return "".join(["env:\n" if lines else "env: {}\n", *lines])
    return "".join(lines)


def checked(variables: Mapping[str, Any]) -> dict[str, str]:
    """Names and texts of ``variables``. Raises DevenvError (env_file_invalid)."""
    found = {}
    for name, given in variables.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise DevenvError("env_file_invalid", f"{name!r} is no name of a variable")
        value = text(given)
        if "\0" in value:
            raise DevenvError(
                "env_file_invalid", "the value has a NUL character, which no variable can have", where=name
            )
        found[name] = value
    return found


def of_profile(resolved: Mapping[str, Any]) -> dict[str, str]:
    """A resolved profile as variables; lists are words, mappings JSON."""
    nodes = resolved["nodes"]
    network = resolved["network"]
    keys = ("topology", "stack", "addressing", "provider")

    def named(group: str) -> str:
        return " ".join(node["name"] for node in nodes if node["group"] == group)

    return {
        "DEVENV_PROFILE": str(resolved["profile"]),
        **{f"DEVENV_{key.upper()}": str(resolved[key]) for key in keys},
        "DEVENV_FAMILIES": " ".join(resolved["families"]),
        "DEVENV_ENGINE": str(resolved["kubernetes"]["engine"]),
        "DEVENV_KUBERNETES_VERSION": str(resolved["kubernetes"]["version"]),
        "DEVENV_POD_SUBNETS": " ".join(network["pods"][family] for family in resolved["families"]),
        "DEVENV_SERVICE_SUBNETS": " ".join(network["services"][family] for family in resolved["families"]),
        "DEVENV_NODES": " ".join(node["name"] for node in nodes),
        "DEVENV_CONTROL_PLANE": named("control_plane"),
        "DEVENV_ARBITERS": named("arbiters"),
        "DEVENV_WORKERS": named("workers"),
        "DEVENV_NODE_LABELS": text({node["name"]: node["labels"] for node in nodes}),
    }
