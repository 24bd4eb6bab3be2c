"""docs/architecture.md and docs/design: short, and every path and link leads somewhere."""

from __future__ import annotations

import configparser
import re
from functools import cache
from pathlib import Path

import pytest
from unit.test_repository import files

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [ARCHITECTURE, *sorted((ROOT / "docs" / "design").glob("*.md"))]

# Beginnings of paths that lie elsewhere: on nodes, in a state directory, in a run's folder; and an annotation.
OUTSIDE = ("/", "$", "~", "clusters/", "devenv.lab/", "history/", "runs/", "testing/<")
# Without a folder, other kinds of files are those of a state directory (network.yml, failure.json).
FILE = re.compile(r"[\w.-]+\.(py|j2)")
PATH = re.compile(r"[\w.-]*/[\w./-]*")


@cache
def known() -> frozenset[str]:
    """Return every path of the repository and every end of one: ``a/b/c.py``, ``b/c.py`` and ``c.py``, folders too."""
    whole = {path for file in files() for path in (file, *file.parents) if path.is_relative_to(ROOT) and path != ROOT}
    parts = [path.relative_to(ROOT).parts for path in whole]
    return frozenset("/".join(part[start:]) for part in parts for start in range(len(part)))


def named(text: str) -> set[str]:
    """Paths of the repository in backticks of a Markdown text, without its blocks of code and paths with ``NAME``."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    words = [word for quoted in re.findall(r"`([^`\n]+)`", prose) for word in quoted.split()]
    paths = [word for word in words if FILE.fullmatch(word) or PATH.fullmatch(word)]
    return {path.rstrip("/") for path in paths if not path.startswith(OUTSIDE) and "NAME" not in path.split("/")}


def anchors(file: Path) -> set[str]:
    """What ``#...`` may name in a page: its headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    assert sorted(named(page.read_text()) - known()) == []


@pytest.mark.parametrize("page", sorted({*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")}), ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if "://" in link or (target.exists() and (not anchor or anchor in anchors(target))):
            continue
        wrong.append(link)
    assert wrong == []


def test_architecture_is_one_screen_and_names_every_design_page() -> None:
    lines = ARCHITECTURE.read_text().splitlines()
    assert len(lines) <= 60
    linked = set(re.findall(r"\]\(design/([\w-]+\.md)", ARCHITECTURE.read_text()))
    assert linked == {page.name for page in PAGES[1:]}


def test_architecture_names_the_layers_in_their_order() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    layers = re.findall(r"[a-z_]+(?=[):\s])", contracts["importlinter:contract:plugin-utils"]["layers"] + "\n")
    planned = re.findall(r"\((\w+)\)", contracts["importlinter:contract:plugin-utils"]["layers"])
    text = " ".join(ARCHITECTURE.read_text().partition("from high to low:")[2].partition("4. ")[0].split())
    assert re.findall(r"[a-z_]+", text) == [layer for layer in layers if layer not in planned]


def test_what_counts_as_a_path() -> None:
    text = "`roles/x`, `a.b(c)`, `devenv.lab`, `ansible-playbook playbooks/y.yml -e a=b`, `/etc/z`, `network.yml`\n"
    assert named(text + "```\n`roles/none`\n```\n`remote.py`") == {"roles/x", "playbooks/y.yml", "remote.py"}
    assert "plugin_utils/core/data.py" in known()
    assert "core/nothing.py" not in known()
