"""The pages for contributors: each is followed line by line in a copy of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import instructions

ROOT = Path(__file__).resolve().parents[2]
# The others take a minute together, and run nightly.
ALWAYS = {"installer", "provider", "reason"}
PAGES = [
    pytest.param(page, id=page.stem, marks=() if page.stem in ALWAYS else pytest.mark.nightly)
    for page in sorted((ROOT / "docs" / "contributing").glob("*.md"))
]


@pytest.mark.parametrize("page", PAGES)
def test_the_page_can_be_followed(page: Path, tmp_path: Path) -> None:
    tree = tmp_path / "devenv"
    instructions.copy_repository(ROOT, tree)
    kinds = {step.verb for step in instructions.steps(page)}
    assert {"create", "run"} <= kinds
    instructions.follow(page, tree, {"DEVENV_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)})
