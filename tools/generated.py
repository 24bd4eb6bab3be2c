"""Write all generated pages, or with --check fail when one is old.

Usage: generated.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import command_docs
import page_parts
import profile_docs
import reference_docs
import role_docs

ROOT = Path(__file__).resolve().parents[1]


def settle(pages: Mapping[Path, str], root: Path, *, check: bool) -> list[Path]:
    """The pages that were not as they should be; they are written unless ``check``."""
    old = [path for path, text in pages.items() if not path.is_file() or path.read_text() != text]
    for path in old:
        print(f"{path.relative_to(root)}: {'is old, type make docs' if check else 'written'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages[path])
    return old


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write all generated pages.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a page is old")
    check = parser.parse_args(arguments).check
    try:
        pages = {
            **role_docs.pages(ROOT),
            **reference_docs.pages(ROOT),
            **profile_docs.pages(ROOT),
            **command_docs.pages(ROOT),
        }
    except page_parts.BadPage as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if settle(pages, ROOT, check=check) and check else 0


if __name__ == "__main__":
    sys.exit(main())
