"""Sizes that keep the code easy to find one's way in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from unit.test_repository import ROOT, files

# Ansible finds plugins of these kinds in one flat folder each.
FLAT = {f"plugins/{kind}" for kind in ("action", "callback", "doc_fragments", "filter", "inventory", "modules")}
LINES = 500
FILES = 15


def product() -> list[Path]:
    """Return the Python files that are no tests, relative to the repository."""
    found = [path.relative_to(ROOT) for path in files() if path.suffix == ".py"]
    return [path for path in found if "tests" not in path.parts and (ROOT / path).is_file()]


def test_no_file_is_too_long() -> None:
    sizes = {str(path): len((ROOT / path).read_text().splitlines()) for path in product()}
    assert len(sizes) > 100
    assert {path: lines for path, lines in sizes.items() if lines >= LINES} == {}


def test_no_folder_is_too_full() -> None:
    counts = Counter(str(path.parent) for path in product() if path.name != "__init__.py")
    assert FLAT & counts.keys()
    assert {folder: count for folder, count in counts.items() if count > FILES and folder not in FLAT} == {}
