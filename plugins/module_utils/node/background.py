"""Do something while this node waits for a program."""

from __future__ import annotations

import threading
from typing import Any


class BackgroundTask:
    """A thread for the time of a ``with`` block. ``_work`` is what it does; ``_over`` is set when the block ends, and
    by ``_work`` itself when it ends threads of its own. ``pause``: seconds between two looks.
    """

    def __init__(self, pause: float = 0.2) -> None:
        self._pause = pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> BackgroundTask:
        self._thread.start()
        return self

    def __exit__(self, *args: Any) -> None:
        self._over.set()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        raise NotImplementedError
