"""Tests that make real nodes say so with the marker ``cluster``; elsewhere they are skipped with the reason."""

from __future__ import annotations

import os
import shutil

import pytest


def what_is_missing() -> str:
    """What this machine lacks for tests with nodes; empty when it has all."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("podman", "ip", "nft") if shutil.which(name) is None]
    return f"needs {', '.join(missing)}" if missing else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := what_is_missing():
        for item in items:
            if item.get_closest_marker("cluster"):
                item.add_marker(pytest.mark.skip(reason=reason))
