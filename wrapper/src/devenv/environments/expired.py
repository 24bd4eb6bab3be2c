"""The environments that `down --all` and `prune --expired` remove, and systemd units that run the latter."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.records import expiry

from devenv import errors
from devenv.environments import names, status

_INHERITED = ("HOME", "PATH", "DEVENV_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "KUBECONFIG")


def all_environments() -> list[str]:
    """Return the names of all environments of this DEVENV_HOME, orphans included."""
    home = str(paths.home())
    return sorted({*names.known(), *(str(row["name"]) for row in status.environments() if row["home"] == home)})


@errors.translated()
def expired() -> list[str]:
    """Return the names of the environments that have expired."""
    return [name for name in names.known() if expiry.is_expired(paths.environment(name))]


def units() -> dict[str, str]:
    """Return the content of a systemd service and its timer by file name, for the user and DEVENV_HOME of now."""
    environment = {
        **{key: os.environ[key] for key in _INHERITED if key in os.environ},
        "DEVENV_HOME": str(paths.home()),
    }
    lines = "".join(f"Environment={_quoted(f'{key}={value}')}\n" for key, value in sorted(environment.items()))
    command = f"{_quoted(sys.executable)} -m devenv prune --expired"
    return {
        "devenv-prune.service": (
            "[Unit]\nDescription=Remove expired devenv environments\n\n"
            f"[Service]\nType=oneshot\n{lines}ExecStart={command}\n"
        ),
        "devenv-prune.timer": (
            "[Unit]\nDescription=Remove expired devenv environments every ten minutes\n\n"
            "[Timer]\nOnCalendar=*:0/10\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
        ),
    }


def _quoted(text: str) -> str:
    """Return a word of a unit file (systemd.syntax)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def write_units(folder: Path) -> list[Path]:
    """Write the units to ``folder``; return the files."""
    written = []
    for name, text in units().items():
        path = folder / name
        try:
            path.write_text(text)
        except OSError as error:
            raise errors.UsageError(f"cannot be written: {error.strerror}", where=str(path)) from None
        written.append(path)
    return written
