"""Write what nobody but root may read."""

from __future__ import annotations

import os


def write(path: str, text: str) -> None:
    """Put a file for its owner alone in the place of the one that is there, whole or not at all. Raises OSError."""
    with os.fdopen(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
    os.replace(path + ".new", path)
