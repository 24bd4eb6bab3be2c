"""What goes on beside a program that this node waits for."""

from __future__ import annotations

import threading
from typing import Any


class Beside:
    """A thread for the time of a ``with`` block. ``_watch`` is what it does; ``_over`` is set when the block ends, and
    by ``_watch`` itself when it tells threads of its own to end. ``pause``: seconds between two looks.
    """

    def __init__(self, pause: float = 0.2) -> None:
        self._pause = pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *args: Any) -> None:
        self._over.set()
        self._thread.join(timeout=30)

    def _watch(self) -> None:
        raise NotImplementedError
