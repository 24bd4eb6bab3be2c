"""Files on this machine that a profile names and that a run reads: checked before it begins."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile


def require(profile: Profile) -> None:
    """Raise DevenvError profile_invalid for the first file of a registry that cannot be read."""
    for key, path in named(profile).items():
        if not (path.is_file() and os.access(path, os.R_OK)):
            raise DevenvError("profile_invalid", f"{key}: {path} is not a readable file")


def named(profile: Profile) -> dict[str, Path]:
    """Return the files by the keys that name them."""
    texts = {
        f"registry.hosts.{host}.{key}": text
        for host, access in profile["registry"].get("hosts", {}).items()
        for key, text in (("ca", access.get("ca")), ("password_file", access.get("password_file")))
    }
    return {key: Path(text).expanduser() for key, text in texts.items() if text}
