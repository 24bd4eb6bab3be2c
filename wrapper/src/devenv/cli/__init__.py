"""The command ``devenv``. Every command is a few lines here; what it does is in the modules beside this package."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run the command (with sys.argv, or ``argv``) and return its exit code (docs/reference/exit-codes.md)."""
    # Imported here, since everything that happens before the first line of help is a wait for someone.
    from devenv.cli import app, output

    words = sys.argv[1:] if argv is None else argv
    # What follows -- is another program's: it must not be mixed up with a wrong argument of ours.
    cut = words.index("--") if "--" in words else len(words)
    own, rest = words[:cut], words[cut + 1 :]
    return output.guarded(
        lambda: app.build(own)(own, prog_name="devenv", standalone_mode=False, obj=tuple(rest)), words
    )
