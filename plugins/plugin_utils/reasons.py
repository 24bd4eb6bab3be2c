"""Every reason to fail: stable id, exit code, what it means, what to do next.

The docs page docs/reference/reasons.md is generated from this table; `DevenvError` refuses ids that are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

# Exit codes of the command, one for each stage that can fail (documented in docs/reference/exit-codes.md).
STAGE_EXITS = {
    "preflight": 9,
    "bundle": 12,
    "provision": 3,
    "prepare": 4,
    "kubernetes": 5,
    "labels": 6,
    "apps": 6,
    "components": 7,
    "validate": 8,
    "down": 13,
}


@dataclass(frozen=True)
class Reason:
    """One row of the catalogue. ``exit`` is the command's exit code."""

    id: str
    exit: int
    meaning: str
    advice: str


def _table(*rows: Reason) -> dict[str, Reason]:
    return {row.id: row for row in rows}


# One block a part, in the order of the exit codes; keep a row on its part's block.
CATALOGUE = _table(
    # profile and names (2)
    Reason("profile_unknown", 2, "No profile has this name.", "devenv profile list shows all names."),
    # environment (10, 11, 14)
    Reason("environment_busy", 10, "Another run holds the environment.", "Wait for it, or end it."),
)
