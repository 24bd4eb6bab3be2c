"""Tests that make real nodes say so with the marker ``cluster``; elsewhere they are skipped with the reason."""

from __future__ import annotations

import os
import shutil

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling


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


class TrialsTogether(LoadFileScheduling):
    """``--dist loadfile``, with all trials in one process, as they share a cluster."""

    def _split_scope(self, nodeid: str) -> str:
        return "trials" if "/trials/" in nodeid else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    return TrialsTogether(config, log) if config.getvalue("dist") == "loadfile" else None
