"""Settings of all unit tests."""

from __future__ import annotations

from hypothesis import settings

# Without a deadline: a loaded machine is slow, which is not a defect of the code.
settings.register_profile("devenv", deadline=None)
settings.load_profile("devenv")
