"""The one exception of devenv's logic, and its form as an Ansible result."""

from __future__ import annotations

from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons


class UnknownReason(Exception):
    """A defect of the code that raised a DevenvError: its reason is not in the catalogue."""


class DevenvError(Exception):
    """A failure with a stable reason id.

    ``message`` says what is wrong, ``where`` in which file, host or key, ``advice`` what to do next (default: the
    reason's own).
    Raises UnknownReason for a reason that is not in the catalogue, so that no id goes undocumented.
    """

    def __init__(self, reason: str, message: str, *, advice: str = "", where: str = "") -> None:
        if reason not in reasons.catalogue():
            raise UnknownReason(f"configs/reasons.yml has no reason {reason!r}, given for: {message}")
        self.reason = reasons.catalogue()[reason]
        self.message = message
        self.where = where
        self.advice = advice or self.reason.advice
        super().__init__(f"{where}: {message}" if where else message)

    @property
    def exit_code(self) -> int:
        return self.reason.exit


def as_result(error: DevenvError) -> dict[str, Any]:
    """A failed Ansible task result that the record callback and the command understand."""
    return {
        "failed": True,
        "msg": str(error),
        "devenv_reason": error.reason.id,
        "devenv_advice": error.advice,
    }
