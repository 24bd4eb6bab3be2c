"""The exceptions of the Python API, and how failures of runs and of the collection's logic become one of them.

Every class has ``exit_code``, the code that the command exits with (docs/reference/exit-codes.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError


@dataclass(eq=False)
class Error(Exception):
    """Base of all failures. ``message`` states what happened, ``where`` names the host, task, file or key, ``advice``
    is what to do next, ``reason`` the stable id (may be empty), ``log`` the full log if there is one.
    ``gathered`` is the archive that was collected because of it, ``checks`` the rows of a validation.
    """

    message: str
    _: KW_ONLY
    reason: str = ""
    advice: str = ""
    where: str = ""
    log: Path | None = None
    stage: str = ""
    gathered: Path | None = None
    gather_trouble: str = ""
    checks: Sequence[Mapping[str, Any]] = ()

    exit_code = 1

    def __str__(self) -> str:
        return f"{self.message} ({self.where})" if self.where else self.message

    def document(self) -> dict[str, Any]:
        """Return the error as one JSON object of ``--json``."""
        return {
            "type": "error",
            "exit": self.exit_code,
            "reason": self.reason,
            "stage": self.stage,
            "message": self.message,
            "where": self.where,
            "advice": self.advice,
            "log": str(self.log) if self.log else None,
            "gathered": str(self.gathered) if self.gathered else None,
        }


class Unexpected(Error):
    """A defect of devenv, or unexpected behaviour of another program (1)."""


class UsageError(Error):
    """Wrong argument, profile or name; nothing was changed (2)."""

    exit_code = 2


class StageFailed(Error):
    """A stage failed (3 to 8, 12, 13); ``stage`` names it."""


class PreflightFailed(StageFailed):
    """The host does not meet the requirements; nothing was changed (9)."""

    exit_code = 9


class EnvironmentBusy(Error):
    """Another run holds the lock of the environment (10)."""

    exit_code = 10


class NotFound(Error):
    """The environment or node does not exist (11)."""

    exit_code = 11


class ProfileChangeRefused(Error):
    """The profile differs from the existing environment's in a way that cannot be applied (14)."""

    exit_code = 14


class Interrupted(KeyboardInterrupt):
    """Ctrl-C (130) or SIGTERM (143) interrupted the run. The state is kept, no process remains."""

    def __init__(self, exit_code: int, log: Path | None = None) -> None:
        super().__init__(f"interrupted (exit {exit_code})")
        self.exit_code = exit_code
        self.log = log


_SPECIFIC = (Unexpected, UsageError, PreflightFailed, EnvironmentBusy, NotFound, ProfileChangeRefused)
_BY_EXIT_CODE: dict[int, type[Error]] = {kind.exit_code: kind for kind in _SPECIFIC}


def make(message: str, *, exit_code: int, **details: Any) -> Error:
    """Return an exception of the class that ``exit_code`` belongs to."""
    error = _BY_EXIT_CODE.get(exit_code, StageFailed)(message, **details)
    error.exit_code = exit_code
    return error


def from_failure(failure: Mapping[str, Any], log: Path | None = None) -> Error:
    """Return the exception for a ``failure.json`` (keys: docs/design/errors.md)."""
    places = (failure.get("host"), failure.get("task"), failure.get("file"))
    return make(
        str(failure.get("message") or "no message"),
        exit_code=int(failure.get("exit") or 1),
        reason=str(failure.get("reason") or ""),
        advice=str(failure.get("advice") or ""),
        where=", ".join(str(place) for place in places if place),
        stage=str(failure.get("stage") or ""),
        log=log,
        gathered=Path(failure["gathered"]) if failure.get("gathered") else None,
        gather_trouble=str(failure.get("gather_trouble") or ""),
    )


def from_logic(error: DevenvError) -> Error:
    """Return the exception for an error of the collection's logic."""
    return make(
        error.message, exit_code=error.exit_code, reason=error.reason.id, advice=error.advice, where=error.where
    )


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise errors of the collection's logic as exceptions of this module; also a decorator."""
    try:
        yield
    except DevenvError as error:
        raise from_logic(error) from None
