"""When a failed run gathers by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import after_failure


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14])
def test_failures_that_nodes_may_explain(tmp_path: Path, code: int) -> None:
    summary = {"exit": code, "stages": [{"name": "provision"}, {"name": "validate"}]}
    assert not after_failure.is_wanted(tmp_path, summary), "there are no nodes"
    (tmp_path / "network.yml").touch()
    assert after_failure.is_wanted(tmp_path, summary) is (code in (1, 3, 4, 5, 6, 7, 8))


@pytest.mark.parametrize(
    ("stages", "wanted"), [(["validate"], False), (["down"], False), (["kubernetes", "validate"], True), ([], False)]
)
def test_a_run_that_only_looks_does_not(tmp_path: Path, stages: list[str], wanted: bool) -> None:
    (tmp_path / "network.yml").touch()
    summary = {"exit": 8, "stages": [{"name": name} for name in stages]}
    assert after_failure.is_wanted(tmp_path, summary) is wanted


@pytest.mark.parametrize(("reason", "wanted"), [("snapshot_unhealthy", False), ("snapshot_failed", True)])
def test_a_snapshot_that_is_refused_does_not(tmp_path: Path, reason: str, wanted: bool) -> None:
    (tmp_path / "network.yml").touch()
    assert after_failure.is_wanted(tmp_path, {"exit": 5, "stages": [{"name": "kubernetes"}]}, reason) is wanted
