"""The same user at the same shell as in the tests of real clusters."""

from __future__ import annotations

from e2e.conftest import environment, new_name, user

__all__ = ["environment", "new_name", "user"]
