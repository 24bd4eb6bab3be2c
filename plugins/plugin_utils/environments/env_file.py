"""Write variables as an env file for a shell, a dotenv reader, GitHub Actions or an OpenShift CI job.

Formats and their definitions:

- ``shell``: POSIX shell, single quotes (The Open Group, Shell Command Language, 2.2.2).
- ``dotenv``: no standard, but a common subset of its readers (see `_dotenv`).
- ``github``: the file that ``$GITHUB_ENV`` names (GitHub Docs, "Workflow commands", multiline strings).
- ``prow``: the mapping ``env`` of a test's ``steps`` in a ci-operator configuration, whose jobs Prow runs. The kubelet
  expands the values of a container's variables (Kubernetes API, EnvVar.value).
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
# Variables that the runner of GitHub Actions does not let a file set.
_GITHUB_RESERVED = re.compile(r"(GITHUB|RUNNER)_.*|NODE_OPTIONS")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")


def text(value: Any) -> str:
    """Convert a value to the text of a variable: true or false, JSON for lists and mappings, an empty text for None."""
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
    """Return a line that python-dotenv, Docker Compose, Node and a shell read alike, where such a line exists.

    They agree on words without special characters, on single quotes around text without single quotes, ``${`` and
    escaping backslashes, and on double quotes around text whose only special characters are single quotes and
    newlines. Other values are written for python-dotenv, which has an escape for each: a backslash before quotes and
    backslashes, and ``${:-$}{`` for ``${``, which it would replace even within single quotes.
    """
    if _PLAIN.fullmatch(value):
        return f"{name}={value}\n"
    literal = "'" not in value and "${" not in value and "\\\\" not in value and not value.endswith("\\")
    # A carriage return would be lost: readers turn it into a newline.
    if literal and "\r" not in value:
        return f"{name}='{value}'\n"
    if not re.search(r'[\\"$`\r]', value):
        return f'{name}="{value}"\n'
    escaped = re.sub(r'(["\\])', r"\\\1", value).replace("\r", "\\r").replace("${", "${:-$}{")
    return f'{name}="{escaped}"\n'


def _github(name: str, value: str) -> str:
    if _GITHUB_RESERVED.fullmatch(name.upper()):
        raise DevenvError("env_file_invalid", "GitHub Actions does not allow a step to set this variable", where=name)
    if "\n" not in value and "\r" not in value:
        return f"{name}={value}\n"
    # No line of a value can be the digest of the whole value.
    end = f"END_{hashlib.sha256(value.encode()).hexdigest()[:32]}"
    return f"{name}<<{end}\n{value}\n{end}\n"


def _prow(name: str, value: str) -> str:
    # The kubelet expands $(NAME) to the value of NAME, and $$ to one dollar sign.
    escaped = value.replace("$", "$$") if "$(" in value or "$$" in value else value
    return f"  {name}: {json.dumps(escaped, ensure_ascii=False)}\n"


_LINES: dict[str, Callable[[str, str], str]] = {
    "shell": _shell,
    "dotenv": _dotenv,
    "github": _github,
    "prow": _prow,
}
FORMATS = tuple(_LINES)


def render(variables: Mapping[str, Any], form: str) -> str:
    """Return the file's text, in the order of ``variables``. ``form`` is one of ``FORMATS``.

    Raises DevenvError env_file_invalid for an invalid name or value, or an unknown format.
    """
    if form not in _LINES:
        raise DevenvError("env_file_invalid", f"{form!r} is not a format of an env file: {', '.join(FORMATS)}")
    lines = [_LINES[form](name, value) for name, value in checked(variables).items()]
    if form == "prow":
        return "".join(["env:\n" if lines else "env: {}\n", *lines])
    return "".join(lines)


def checked(variables: Mapping[str, Any]) -> dict[str, str]:
    """Return names and texts of ``variables``. Raises DevenvError env_file_invalid."""
    texts = {name: text(value) for name, value in variables.items()}
    for name, value in texts.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise DevenvError("env_file_invalid", f"{name!r} is not a valid name of a variable")
        if "\0" in value:
            raise DevenvError("env_file_invalid", "the value contains a NUL character, which is invalid", where=name)
    return texts


def of_profile(resolved: Mapping[str, Any]) -> dict[str, str]:
    """Return a resolved profile as variables; lists become words, mappings JSON."""
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
