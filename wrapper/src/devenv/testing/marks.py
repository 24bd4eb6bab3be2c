"""Names that pytest knows us by. Imports nothing: every pytest run loads it."""

from __future__ import annotations

MARK = "hardware_config"
SESSION = "devenv-session"
