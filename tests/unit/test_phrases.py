"""The language gate: no text of the repository has a phrase that docs/style.md bans."""

from __future__ import annotations

import re

import pytest
import yaml
from unit.test_repository import ROOT, lines

PHRASES: list[dict[str, str]] = yaml.safe_load((ROOT / "tools" / "phrases.yml").read_text())
# The list itself, the page that explains it, licences, and texts of past releases.
EXEMPT = (
    "tools/phrases.yml", "tools/dictionary.txt", "docs/style.md", "LICENSE", "LICENSES/GPL-3.0-or-later.txt",
    "LICENSES/Apache-2.0.txt", "CHANGELOG.md", "changelogs/changelog.yaml",
)  # fmt: skip


@pytest.fixture(scope="module")
def text() -> list[tuple[str, str]]:
    """Return every line with its place: read once, as each phrase searches all of them."""
    return list(lines(EXEMPT))


@pytest.mark.parametrize("phrase", PHRASES, ids=[phrase["example"] for phrase in PHRASES])
def test_no_text_has_a_banned_phrase(phrase: dict[str, str], text: list[tuple[str, str]]) -> None:
    pattern = re.compile(phrase["pattern"], re.IGNORECASE)
    assert pattern.search(phrase["example"]), "the pattern does not match its own example"
    matches = [f"{place}: {line.strip()[:120]}" for place, line in text if pattern.search(line)]
    assert not matches, f"{len(matches)} lines; write instead: {phrase['instead']}\n" + "\n".join(matches[:40])
