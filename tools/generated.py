"""Write all generated pages; with --check, fail if one is outdated.

Usage: generated.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import page_parts
import profile_docs
import reference_docs

ROOT = Path(__file__).resolve().parents[1]


def write(pages: Mapping[Path, str], root: Path, *, check: bool) -> list[Path]:
    """Write the pages that are outdated, unless ``check``; return their paths."""
    outdated = [path for path, text in pages.items() if not path.is_file() or path.read_text() != text]
    for path in outdated:
        print(f"{path.relative_to(root)}: {'outdated, run make docs' if check else 'written'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages[path])
    return outdated


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write all generated pages.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a page is outdated")
    check = parser.parse_args(arguments).check
    try:
        pages = {}
        for maker in (reference_docs, profile_docs):
            pages.update(maker.pages(ROOT))
    except page_parts.BadPage as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if write(pages, ROOT, check=check) and check else 0


if __name__ == "__main__":
    sys.exit(main())
