"""Build the documentation site: README, docs/ and the pages of the roles, with a menu and a search.

Usage: build_site.py [FOLDER]   (default: site)
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ROOT / "tools" / "site"
LINK = re.compile(r"(?<=\]\()(?P<target>[^)#:\s]+)(?P<anchor>#[^)]*)?(?=\))")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def pages() -> dict[str, str]:
    """Return the place on the site of each page and picture of the repository."""
    roots = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "SECURITY.md": "SECURITY.md"}
    roles = {
        f"roles/{path.parent.name}/README.md": f"roles/{path.parent.name}.md" for path in ROOT.glob("roles/*/README.md")
    }
    docs = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*") if path.suffix in (".md", ".svg")]
    return roots | roles | {name: name.removeprefix("docs/") for name in docs}


def with_links(text: str, source: str, places: dict[str, str]) -> str:
    """Return a page's text with links that lead to other pages of the site; code blocks stay as they are."""

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["target"]))
        place = posixpath.relpath(places.get(target, target), posixpath.dirname(places[source]) or ".")
        return place + (match["anchor"] or "")

    parts, end = [], 0
    for block in CODE.finditer(text):
        parts += [LINK.sub(link, text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, LINK.sub(link, text[end:])])


def menu() -> str:
    """Return the site's tables of contents, one per section of tools/site/menu.yml."""
    sections = []
    for title, patterns in yaml.safe_load((SETTINGS / "menu.yml").read_text()).items():
        lines = ["```{toctree}", ":hidden:", ":glob:", f":caption: {title}", "", *patterns, "```"]
        sections.append("\n".join(lines))
    return "\n\n".join(sections)


def stage(target: Path) -> None:
    """Write the pages to ``target`` as Sphinx expects them."""
    places = pages()
    for source, place in places.items():
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        if place.endswith(".md"):
            text = with_links((ROOT / source).read_text(), source, places)
            (target / place).write_text(text + ("\n" + menu() + "\n" if place == "index.md" else ""))
        else:
            shutil.copy(ROOT / source, target / place)


def build(output: Path) -> int:
    """Build the site in ``output`` and return the exit code of Sphinx; a warning is an error."""
    with tempfile.TemporaryDirectory(prefix="devenv-site-") as folder:
        stage(Path(folder) / "pages")
        argv = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]
        argv += ["--conf-dir", str(SETTINGS), "--doctree-dir", f"{folder}/trees", f"{folder}/pages", str(output)]
        return subprocess.run(argv, check=False).returncode


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"))
