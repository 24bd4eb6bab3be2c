"""What the README and the pages say exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from devenv.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        found = (page.parent / path) if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in _anchors(found.read_text()), target


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    known = {name for name, *_ in app.COMMANDS}
    text = page.read_text()
    code = "\n".join([*re.findall(r"```\w*\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)])
    words = re.findall(r"^(?:\$ )?devenv ([a-z]+)", code, re.MULTILINE)
    assert set(words) <= known, set(words) - known


def test_the_probe_image_of_the_readme_is_the_bundles() -> None:
    tag = yaml.safe_load((ROOT / "configs" / "versions.yml").read_text())["probe"]
    assert re.findall(r"devenv\.lab/probe:(\S+)", (ROOT / "README.md").read_text()) == [str(tag)]


def test_playbooks_of_the_ansible_page_exist() -> None:
    text = (ROOT / "docs" / "ansible.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `") and ".yml`" in line.split("|")[1]]
    named = {word for row in rows for word in re.findall(r"`(\w+\.yml)`", row.split("|")[1])}
    assert named == {path.name for path in (ROOT / "playbooks").glob("*.yml")}
