"""The command ``devenv``. Every command is a few lines; the modules next to this package do the work."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run the command (with ``argv``, else sys.argv) and return its exit code (docs/reference/exit-codes.md)."""
    from devenv.cli import process

    if argv is None:
        process.prepare()
    # Imported here to keep the time before the first line of help short.
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import files

    from devenv.cli import app, output

    files.tighten_umask()
    words = sys.argv[1:] if argv is None else argv
    # The words after -- belong to another program; Typer must not parse them.
    cut = words.index("--") if "--" in words else len(words)
    before, after = words[:cut], words[cut + 1 :]
    return output.guarded(lambda: app.run(before, after), words)
