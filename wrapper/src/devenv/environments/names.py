"""Which environment a command is for: its name, given or found. Light, since every command needs it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

from devenv import errors


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise errors of the collection's logic as those of this package."""
    try:
        yield
    except DevenvError as error:
        raise errors.from_logic(error) from None


def known(env: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the environments of this DEVENV_HOME."""
    folder = paths.home(env) / "environments"
    return (
        sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if folder.is_dir()
        else []
    )


def check_name(name: str) -> str:
    """``name``, or UsageError."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names

    with translated():
        return profile_names.validate(name)


def choose(name: str | None) -> str:
    """``name``, else ``$DEVENV_NAME``, else the only environment there is. Raises UsageError or NotFound."""
    wanted = name or os.environ.get("DEVENV_NAME")
    if wanted:
        return check_name(wanted)
    found = known()
    if not found:
        raise errors.NotFound("there is no environment", advice="devenv up --profile aio makes one")
    if len(found) > 1:
        raise errors.UsageError(
            f"which environment? There are {', '.join(found)}", advice="name one with -n NAME, or set DEVENV_NAME"
        )
    return found[0]


def existing(name: str | None) -> str:
    """Like `choose`, for an environment that must be there. Raises NotFound."""
    chosen = choose(name)
    if not paths.environment(chosen).is_dir():
        raise errors.NotFound(f"there is no environment {chosen}", advice=_advice())
    return chosen


def _advice() -> str:
    found = known()
    return f"there are: {', '.join(found)}" if found else "devenv up --profile aio makes one"
