"""Reasons of failures (configs/reasons.yml): a stable id, exit code, meaning and advice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths

FILE = paths.CONFIGS / "reasons.yml"


@dataclass(frozen=True)
class Reason:
    """One entry of the catalogue. ``exit`` is the command's exit code."""

    id: str
    exit: int
    meaning: str
    advice: str


def stages() -> dict[str, int]:
    """Return the exit code of each stage that can fail."""
    return dict(data.read_once(FILE)["stages"])


@cache
def catalogue() -> dict[str, Reason]:
    """Return all reasons by id."""
    return {name: Reason(name, **entry) for name, entry in data.read_once(FILE)["reasons"].items()}


def of_stage(stage: str) -> Reason:
    """Return the reason of a failure in ``stage`` without a reason of its own."""
    return catalogue().get(f"{stage}_failed", catalogue()["unexpected"])
