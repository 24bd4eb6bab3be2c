"""Follow a page of instructions in a copy of the repository.

A step is a line that ends in a colon, followed by a fenced block:

- ``Create `path`:`` writes the block to a new file,
- ``Append to `path`:`` adds it at the end of an existing one,
- ``In `path`, below `line`:`` inserts it after the only line that contains ``line``,
- ``Run:`` executes its lines as a shell would, each of which must succeed.

``Follow [title](page.md) first`` stands for the steps of that page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STEP = re.compile(
    r"^(?:(?P<verb>Create|Append to) `(?P<file>[^`]+)`"
    r"|In `(?P<into>[^`]+)`,\s+below\s+`(?P<anchor>[^`]+)`"
    r"|(?P<run>Run)):\n\n```\w*\n(?P<block>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Step:
    """One step: ``verb`` is create, append, insert or run; ``anchor`` is the line to insert below."""

    verb: str
    path: str
    block: str
    anchor: str = ""


class BadInstruction(Exception):
    """A step that cannot be followed."""


BLOCK = re.compile(r":\n\n```")
FIRST = re.compile(r"Follow\s+\[[^\]]+\]\((?P<page>[^)]+)\)\s+first")


def steps(page: Path) -> Iterator[Step]:
    """Yield the steps of a page in their order, after those of the pages to follow first."""
    text = page.read_text()
    for match in FIRST.finditer(text):
        yield from steps(page.parent / match["page"])
    matches = list(STEP.finditer(text))
    if len(matches) != len(BLOCK.findall(text)):
        raise BadInstruction(f"{page.name}: a block after a colon is not a step")
    for match in matches:
        if match["run"]:
            yield Step("run", "", match["block"])
        elif match["into"]:
            yield Step("insert", match["into"], match["block"], match["anchor"])
        else:
            yield Step(match["verb"].split()[0].lower(), match["file"], match["block"])


def copy_repository(root: Path, target: Path) -> None:
    """Copy the tracked and new files of ``root`` to ``target``, with its virtual environment as a link."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name, follow_symlinks=False)
    subprocess.run(["git", "init", "-q", str(target)], check=True)
    (target / ".venv").mkdir()
    for entry in (root / ".venv").iterdir():
        if entry.name != ".ready":
            (target / ".venv" / entry.name).symlink_to(entry)
    # Else tools/setup could install the copy into the virtual environment of the original.
    ready = "sed '/^\\[tool\\.ruff/,$d' pyproject.toml | cksum >.venv/.ready"
    subprocess.run(["sh", "-c", ready], cwd=target, check=True)


def follow(page: Path, tree: Path, environment: dict[str, str]) -> str:
    """Carry out the steps of ``page`` in ``tree`` and return the output of its commands."""
    output = ""
    for step in steps(page):
        if step.verb == "run":
            output += run(step.block, tree, environment)
        else:
            edit(tree / step.path, step)
    return output


def edit(path: Path, step: Step) -> None:
    """Create or change one file as the step specifies."""
    if step.verb == "create":
        if path.exists():
            raise BadInstruction(f"{step.path} exists already")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.block)
        return
    lines = path.read_text().splitlines(keepends=True)
    place = len(lines)
    if step.verb == "insert":
        matches = [number for number, line in enumerate(lines, 1) if step.anchor in line]
        if len(matches) != 1:
            raise BadInstruction(f"{step.path}: {len(matches)} lines contain {step.anchor!r}")
        place = matches[0]
    path.write_text("".join([*lines[:place], step.block, *lines[place:]]))


def run(block: str, tree: Path, environment: dict[str, str]) -> str:
    """Run the lines of a block in one shell and return their output; raises BadInstruction if one fails."""
    plain = {
        "PYTHONPATH": f"{tree / 'wrapper' / 'src'}:{tree / 'collections'}",
        "ANSIBLE_COLLECTIONS_PATH": str(tree / "collections"),
        "PATH": f"{tree / '.venv' / 'bin'}:{os.environ['PATH']}",
    }
    argv = ["bash", "-euo", "pipefail", "-c", block]
    done = subprocess.run(
        argv, cwd=tree, env={**os.environ, **plain, **environment}, capture_output=True, text=True, timeout=300
    )
    if done.returncode != 0:
        raise BadInstruction(f"{block}\nexit {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}")
    return done.stdout
