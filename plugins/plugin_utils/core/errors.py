"""The exception for failures with a known reason, and its form as an Ansible result."""

from __future__ import annotations

from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons


class UnknownReason(Exception):
    """A bug: a DevenvError was raised with a reason that is not in the catalogue."""


class DevenvError(Exception):
    """A failure with a stable reason id.

    ``message`` states what is wrong, ``where`` names the file, host or key, ``advice`` is the next step (default: the
    reason's). Raises UnknownReason for a reason that is not in the catalogue, so that every id is documented.
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
    """Return a failed Ansible task result, which the record callback and the command evaluate."""
    return {"failed": True, "msg": str(error), "devenv_reason": error.reason.id, "devenv_advice": error.advice}
