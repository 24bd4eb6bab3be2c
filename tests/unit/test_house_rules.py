"""Limits of file and folder sizes that keep the code easy to navigate."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from unit.test_repository import ROOT, files

# Ansible loads plugins of each of these kinds from one flat folder.
FLAT = {f"plugins/{kind}" for kind in ("action", "callback", "doc_fragments", "filter", "inventory", "modules")}
LINES = 500
FILES = 15


def product() -> list[Path]:
    """Return the Python files outside the tests, relative to the repository."""
    paths = [path.relative_to(ROOT) for path in files() if path.suffix == ".py"]
    return [path for path in paths if "tests" not in path.parts and (ROOT / path).is_file()]


def test_no_file_is_too_long() -> None:
    sizes = {str(path): len((ROOT / path).read_text().splitlines()) for path in product()}
    assert len(sizes) > 100
    assert {path: lines for path, lines in sizes.items() if lines >= LINES} == {}


def test_no_folder_is_too_full() -> None:
    counts = Counter(str(path.parent) for path in product() if path.name != "__init__.py")
    assert FLAT & counts.keys()
    assert {folder: count for folder, count in counts.items() if count > FILES and folder not in FLAT} == {}
