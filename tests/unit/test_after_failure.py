"""Failures after which a run gathers automatically."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import after_failure


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14])
def test_gathers_after_failures_of_stages_with_nodes(tmp_path: Path, code: int) -> None:
    summary = {"exit": code, "stages": [{"name": "provision"}, {"name": "validate"}]}
    assert not after_failure.is_due(tmp_path, summary), "there are no nodes"
    (tmp_path / "network.yml").touch()
    assert after_failure.is_due(tmp_path, summary) is (code in (1, 3, 4, 5, 6, 7, 8))


@pytest.mark.parametrize(
    ("stages", "due"), [(["validate"], False), (["down"], False), (["kubernetes", "validate"], True), ([], False)]
)
def test_does_not_gather_after_validate_or_down_alone(tmp_path: Path, stages: list[str], due: bool) -> None:
    (tmp_path / "network.yml").touch()
    summary = {"exit": 8, "stages": [{"name": name} for name in stages]}
    assert after_failure.is_due(tmp_path, summary) is due


@pytest.mark.parametrize(("reason", "due"), [("snapshot_unhealthy", False), ("snapshot_failed", True)])
def test_does_not_gather_after_a_refused_snapshot(tmp_path: Path, reason: str, due: bool) -> None:
    (tmp_path / "network.yml").touch()
    assert after_failure.is_due(tmp_path, {"exit": 5, "stages": [{"name": "kubernetes"}]}, reason) is due
