"""Link the bundle's programs for people, kubectl and (if it has it) helm, into the virtual environment."""

from __future__ import annotations

import sys
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store

PROGRAMS = ("kubectl", "helm")


def link(programs: Path, into: Path) -> None:
    """Make ``into`` hold a link to each of PROGRAMS that the folder ``programs`` has; an old one is replaced."""
    for name in (name for name in PROGRAMS if (programs / name).is_file()):
        new = into / f".{name}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(programs / name)
        new.replace(into / name)


def main() -> int:
    bundle = store.find()
    if bundle is None:
        print("there is no bundle yet: make bundle", file=sys.stderr)
        return 1
    link(bundle.path / "bin", Path(sys.executable).parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
