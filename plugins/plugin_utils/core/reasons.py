"""Every reason to fail, from configs/reasons.yml: a stable id, exit code, meaning and advice."""

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


@cache
def stages() -> dict[str, int]:
    """Return the exit code of each stage that can fail."""
    return dict(data.read(FILE)["stages"])


@cache
def catalogue() -> dict[str, Reason]:
    """Return all reasons by id."""
    return {name: Reason(name, **entry) for name, entry in data.read(FILE)["reasons"].items()}


def of_stage(stage: str) -> Reason:
    """Return the reason of a failure in ``stage`` that named none."""
    return catalogue().get(f"{stage}_failed", catalogue()["unexpected"])
