"""Compare the figures of bench.json with their bars (bars.yml)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("bars.yml")
Bars = Mapping[str, Mapping[str, float]]


def read(path: Path = FILE) -> Bars:
    """Return the bars by the path of their figure."""
    bars: Bars = yaml.safe_load(path.read_text())
    return bars


def missed(result: Mapping[str, Any], bars: Bars, profiles: Iterable[str]) -> list[str]:
    """Return a line for each figure that is above its bar or was not measured; bars of other profiles do not count."""
    lines = []
    measured = tuple(f"profiles.{profile}." for profile in profiles)
    for path, row in bars.items():
        if path.startswith("profiles.") and not path.startswith(measured):
            continue
        value = _figure(result, path)
        if value is None:
            lines.append(f"{path} was not measured")
        elif value > row["bar"]:
            lines.append(f"{path} is {value:g}, its bar {row['bar']:g}")
    return lines


def _figure(result: Mapping[str, Any], path: str) -> float | None:
    value: Any = result
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None
