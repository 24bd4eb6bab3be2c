"""Names of environments: the existing ones, and the one that a command works on. Every command imports this module,
so it imports little.
"""

from __future__ import annotations

import os

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv import errors

_CREATE = "devenv up --profile aio creates one"


def known() -> list[str]:
    """Return the names of the environments of this DEVENV_HOME, sorted."""
    folder = paths.home() / "environments"
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


@errors.translated()
def check_name(name: str) -> str:
    """Return ``name``. Raises UsageError if it is not valid."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names

    return profile_names.validate(name)


def choose(name: str | None) -> str:
    """Return ``name``, else ``$DEVENV_NAME``, else the only existing environment. Raises UsageError or NotFound."""
    given = name or os.environ.get("DEVENV_NAME")
    if given:
        return check_name(given)
    environments = known()
    if not environments:
        raise errors.NotFound("no environment exists", advice=_CREATE)
    if len(environments) > 1:
        raise errors.UsageError(
            f"several environments exist: {', '.join(environments)}", advice="name one with -n NAME or set DEVENV_NAME"
        )
    return environments[0]


def existing(name: str | None) -> str:
    """Return the name as `choose` does. Raises NotFound if that environment does not exist."""
    chosen = choose(name)
    if not paths.environment(chosen).is_dir():
        others = ", ".join(known())
        advice = f"existing environments: {others}" if others else f"devenv up --profile aio --name {chosen} creates it"
        raise errors.NotFound(f"environment {chosen} does not exist", advice=advice)
    return chosen
