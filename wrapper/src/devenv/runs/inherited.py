"""Which of the user's environment variables a run inherits: none that would change what it does."""

from __future__ import annotations

import functools
import locale
import re
from collections.abc import Iterable, Mapping

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

from devenv import errors

OPTION = "--ansible-env"

_ANSIBLE = ("ANSIBLE_", "_ANSIBLE_")
# Variables without effect on a run: devenv env exports the first one, the others only change the display.
_HARMLESS = ("ANSIBLE_INVENTORY", "ANSIBLE_NOCOLOR", "ANSIBLE_FORCE_COLOR", "ANSIBLE_NOCOWS", "ANSIBLE_COW_")
# devenv reads the output through ansible-runner's callback, answers no prompt, and names the inventory itself.
_REFUSED = ("ANSIBLE_STDOUT_CALLBACK", "ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_INVENTORY")
_PROMPTS = re.compile(r"ANSIBLE_(BECOME_)?ASK_\w*PASS\w*")

# PYTHONWARNINGS=error, PYTHONOPTIMIZE, PYTHONINSPECT and others break programs in Python. PYTHONUNBUFFERED makes
# Python read a module from stdin byte by byte: 60 ms per module.
_PYTHON_KEPT = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONNOUSERSITE")
# Start-up files, options and functions of shells.
_SHELL = ("BASH_ENV", "ENV", "CDPATH", "SHELLOPTS", "BASHOPTS", "GLOBIGNORE", "POSIXLY_CORRECT", "GREP_OPTIONS")
_LANGUAGE = ("LANG", "LANGUAGE", "LC_")
_UTF8 = re.compile(r"\.utf-?8$", re.IGNORECASE)


def clean(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a run inherits."""
    return {name: value for name, value in env.items() if not _is_dropped(name)}


def _is_dropped(name: str) -> bool:
    return (
        name.startswith((*_ANSIBLE, *_LANGUAGE, "BASH_FUNC_"))
        or name in _SHELL
        or (name.startswith("PYTHON") and name not in _PYTHON_KEPT)
    )


def ignored(env: Mapping[str, str], effective: Mapping[str, str]) -> list[str]:
    """Return the names of Ansible's variables in ``env`` that would change a run whose variables are ``effective``."""
    return sorted(
        name
        for name, value in env.items()
        if name.startswith(_ANSIBLE) and not name.startswith(_HARMLESS) and effective.get(name) != value
    )


def passed(values: Iterable[str], env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of ``--ansible-env NAME`` (the caller's value) and ``--ansible-env NAME=VALUE``. Raises
    UsageError.
    """
    variables = {}
    for item in values:
        name, equals, value = item.partition("=")
        if not equals and name not in env:
            raise errors.UsageError(
                f"{name} is not set", where=OPTION, advice=f"export {name}, or {OPTION} {name}=VALUE"
            )
        variables[name] = value if equals else env[name]
    check_passed(variables)
    return variables


def check_passed(variables: Mapping[str, str]) -> None:
    """Raise UsageError for a variable that is not Ansible's, or that devenv must set itself."""
    for name in variables:
        if not re.fullmatch(r"_?ANSIBLE_\w+", name):
            raise errors.UsageError(
                f"{name!r} is not a variable of Ansible", where=OPTION, advice=f"{OPTION} ANSIBLE_FORKS=5"
            )
        if name in _REFUSED or _PROMPTS.fullmatch(name):
            raise errors.UsageError(f"{name} cannot be passed to a run", where=OPTION)


@functools.cache
def utf8_locale(*preferred: str) -> str:
    """Return the first existing UTF-8 locale, which Ansible requires. Raises PreflightFailed if there is none."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        for name in ("C.UTF-8", "C.utf8", "en_US.UTF-8", *(name for name in preferred if _UTF8.search(name))):
            try:
                locale.setlocale(locale.LC_CTYPE, name)
            except locale.Error:
                continue
            return name
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    raise errors.from_logic(DevenvError("locale_missing", "this machine has no UTF-8 locale"))
