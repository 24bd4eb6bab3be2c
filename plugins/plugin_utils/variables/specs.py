"""The variables that playbooks and roles accept: name, type, choices."""

from __future__ import annotations

from functools import cache
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths

# The options of a variable as in argument_specs.
Spec = dict[str, Any]
PREFIX = "devenv_"


@cache
def roles() -> tuple[str, ...]:
    """Return the names of the collection's roles."""
    return tuple(sorted(path.parents[1].name for path in paths.COLLECTION.glob("roles/*/meta/argument_specs.yml")))


def role_of(variable: str) -> str:
    """Return the role that the prefix of a variable names; empty if there is none."""
    return max((role for role in roles() if variable.startswith(f"{role}_")), key=len, default="")


@cache
def of_role(role: str) -> dict[str, Spec]:
    """Return the variables of a role, of all its entry points."""
    entries = data.read(paths.COLLECTION / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"].values()
    return {name: spec for entry in entries for name, spec in (entry.get("options") or {}).items()}


def of_playbooks() -> dict[str, Spec]:
    """Return the variables of the playbooks themselves."""
    return dict(data.read_once(paths.CONFIGS / "variables.yml"))


def siblings(variable: str) -> dict[str, Spec] | None:
    """Return the variables that are accepted with the prefix of ``variable``; None if it is the user's own."""
    if variable.startswith(PREFIX) or variable in of_playbooks():
        return of_playbooks()
    role = role_of(variable)
    return of_role(role) if role else None
