"""What the Python API raises, and how a failed run becomes one of these.

Every class carries ``exit_code``, the code that the command ends with (docs/reference/exit-codes.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Error(Exception):
    """Base of everything that goes wrong. ``message`` says what, ``where`` in which host, task, file or key,
    ``advice`` what to do next, ``reason`` is the stable id (may be empty), ``log`` the full log if there is one.
    ``gathered`` is the archive that was made because of it, ``checks`` the rows of a validation.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        exit_code: int | None = None,
        advice: str = "",
        where: str = "",
        log: Path | None = None,
        stage: str = "",
    ) -> None:
        super().__init__(f"{message} ({where})" if where else message)
        self.message = message
        self.reason = reason
        self.advice = advice
        self.where = where
        self.log = log
        self.stage = stage
        self.gathered: Path | None = None
        self.gather_trouble = ""
        self.checks: Sequence[Mapping[str, Any]] = ()
        if exit_code is not None:
            self.exit_code = exit_code

    def document(self) -> dict[str, Any]:
        """The error as one JSON object of ``--json``."""
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
    """A defect of devenv, or a program that behaved as no one foresaw (1)."""


class UsageError(Error):
    """Wrong argument, profile or name; nothing was done (2)."""

    exit_code = 2


class StageFailed(Error):
    """A stage did not reach its end (3 to 8, 12, 13); ``stage`` says which."""


class PreflightFailed(StageFailed):
    """The host lacks something; nothing was changed (9)."""

    exit_code = 9


class EnvironmentBusy(Error):
    """Another run holds the environment (10)."""

    exit_code = 10


class NotFound(Error):
    """There is no such environment or node (11)."""

    exit_code = 11


class ProfileChangeRefused(Error):
    """The profile differs from the existing environment's in a way that cannot be applied (14)."""

    exit_code = 14


class Interrupted(KeyboardInterrupt):
    """Ctrl-C (130) or SIGTERM (143) ended the run. State is kept, no process is left."""

    def __init__(self, exit_code: int, log: Path | None = None) -> None:
        super().__init__(f"interrupted (exit {exit_code})")
        self.exit_code = exit_code
        self.log = log


_CLASSES: dict[int, type[Error]] = {
    1: Unexpected,
    2: UsageError,
    9: PreflightFailed,
    10: EnvironmentBusy,
    11: NotFound,
    14: ProfileChangeRefused,
}


def make(message: str, *, exit_code: int, **details: Any) -> Error:
    """The exception whose class fits ``exit_code``."""
    return _CLASSES.get(exit_code, StageFailed)(message, exit_code=exit_code, **details)


def from_failure(failure: Mapping[str, Any], log: Path | None = None) -> Error:
    """Exception of a ``failure.json`` (keys: docs/design/errors.md)."""
    places = (failure.get("host"), failure.get("task"), failure.get("file"))
    error = make(
        str(failure.get("message") or "no message"),
        exit_code=int(failure.get("exit") or 1),
        reason=str(failure.get("reason") or ""),
        advice=str(failure.get("advice") or ""),
        where=", ".join(str(place) for place in places if place),
        stage=str(failure.get("stage") or ""),
        log=log,
    )
    error.gathered = Path(failure["gathered"]) if failure.get("gathered") else None
    error.gather_trouble = str(failure.get("gather_trouble") or "")
    return error


def from_logic(error: Exception) -> Error:
    """Exception of a ``plugin_utils.errors.DevenvError`` (duck-typed, so that nothing need be imported to ask)."""
    reason = getattr(error, "reason", None)
    return make(
        str(getattr(error, "message", error)),
        exit_code=int(getattr(error, "exit_code", 1)),
        reason=str(getattr(reason, "id", "")),
        advice=str(getattr(error, "advice", "")),
        where=str(getattr(error, "where", "")),
    )
