"""YAML files of the collection."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(text: str | bytes) -> Any:
    """Return the content of a YAML text, read by libyaml where PyYAML has it (ten times as fast)."""
    return yaml.load(text, Loader=_Loader)


def read(file: Path) -> Any:
    """Return the content of a YAML file."""
    return parse(file.read_bytes())


# For files that several functions read many times in one process.
read_once = cache(read)
