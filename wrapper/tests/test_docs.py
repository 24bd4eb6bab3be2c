"""Everything that the README and the pages mention exists."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from devenv.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in _anchors(linked.read_text()), target


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    existing = {name for name, *_ in app.COMMANDS}
    text = page.read_text()
    code = "\n".join([*re.findall(r"```\w*\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)])
    words = re.findall(r"^(?:\$ )?devenv ([a-z][a-z-]*)", code, re.MULTILINE)
    assert set(words) <= existing, set(words) - existing


def test_the_readme_names_the_probe_image_of_the_bundle() -> None:
    tag = yaml.safe_load((ROOT / "configs" / "versions.yml").read_text())["probe"]
    assert re.findall(r"devenv\.lab/probe:(\S+)", (ROOT / "README.md").read_text()) == [str(tag)]


ANSIBLE_PAGE = (ROOT / "docs" / "ansible.md").read_text()
PLAYBOOKS = {path.name: path.read_text() for path in (ROOT / "playbooks").glob("*.yml")}


def playbook_rows() -> list[tuple[set[str], str, str]]:
    """Return the rows of the table: commands, their playbook or nothing, the remark."""
    table = ANSIBLE_PAGE.partition("| devenv | playbook |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return [(set(re.findall(r"`([^`]+)`", cells[0])), cells[1].strip("`"), cells[2]) for cells in rows]


def every_command(group: Any, before: tuple[str, ...] = ()) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*before, name))
        else:
            yield " ".join((*before, name))


def test_each_command_has_its_playbook_or_a_reason() -> None:
    rows = playbook_rows()
    documented = [command for commands, _, _ in rows for command in commands]
    assert sorted(documented) == sorted(every_command(typer.main.get_command(app.build())))
    assert [commands for commands, playbook, reason in rows if not playbook and not reason] == []


def test_playbooks_of_the_ansible_page_exist() -> None:
    assert {playbook for _, playbook, _ in playbook_rows() if playbook} <= PLAYBOOKS.keys()
    assert set(re.findall(r"`(\w+\.yml)`", ANSIBLE_PAGE)) & PLAYBOOKS.keys() == PLAYBOOKS.keys()


def test_variables_of_the_ansible_page_are_read() -> None:
    read_by_all = (ROOT / "plugins" / "inventory" / "profile.py").read_text()
    for commands, playbook, text in playbook_rows():
        for variable in re.findall(r"`(devenv_\w+)`", text):
            assert re.search(rf"\b{variable}\b", PLAYBOOKS.get(playbook, "") + read_by_all), (commands, variable)


def test_ansible_accepts_the_syntax_of_each_playbook() -> None:
    paths = [str(ROOT / "playbooks" / name) for name in sorted(PLAYBOOKS)]
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "--syntax-check", *paths]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Where people look for a Service's address, before they choose a tool, and in the first cluster.
@pytest.mark.parametrize("page", ["networks.md", "which-tool.md", "getting-started.md"])
@pytest.mark.parametrize("feature", ["`LoadBalancer`", "`NetworkPolicy`"])
def test_what_is_not_supported_is_stated(page: str, feature: str) -> None:
    text = " ".join((ROOT / "docs" / page).read_text().split())
    assert feature in text[text.index("Not supported") :][:500]
