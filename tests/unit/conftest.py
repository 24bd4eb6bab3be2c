"""Settings of all unit tests."""

from __future__ import annotations

from hypothesis import settings

# A loaded machine is slow; that is no fault of what is tested.
settings.register_profile("devenv", deadline=None)
settings.load_profile("devenv")
