"""Promised figures are asserted: bars of the benchmark decide its exit code, and kills reach every stage."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.stages import stages

TESTS = Path(__file__).parents[1]
STAGE = {"seconds": 1.0, "tasks": 1, "module_calls": 1}
COUNTS = {"tasks": 1, "module_calls": 1, "stages": dict.fromkeys(("labels", "addons", "validate"), STAGE)}
TIMES = dict.fromkeys(("command", "api", "service", "dns_service", "app", "dns", "init"), 20.0)
ROUND = {
    "up": TIMES,
    "bare": TIMES,
    "up_counts": COUNTS,
    "full_counts": COUNTS,
    "noop": 1.0,
    "full": 5.0,
    "snapshot": 15.0,
    "status": 0.4,
    "inventory": 0.3,
    "down": 2.0,
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(TESTS / "bench"))
    before = set(sys.modules)
    yield importlib.import_module("bench")
    for name in set(sys.modules) - before:
        if str(TESTS / "bench") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, noop: float, *words: str) -> int:
    """Run the benchmark with fixed figures."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(bench, "measure", lambda profile, rounds: bench.summary([{**ROUND, "noop": noop}]))
    others = {
        "inventory_bench": {"ratio": 0.3},
        "plugin_bench": {"overhead_ms": {"wall": 3.0, "cpu": 3.0}, "ratio": {}},
        "join_bench": {"ratio": 1.2, "median": {}},
        "apps_bench": {"ratio": 0.5, "median": {}},
    }
    for name, result in others.items():
        monkeypatch.setattr(getattr(bench, name), "measure", lambda result=result, **_: result)
    code: int = bench.main(["--out", str(tmp_path / "bench.json"), *words])
    assert json.loads((tmp_path / "bench.json").read_text())["profiles"]
    return code


@pytest.mark.parametrize(
    ("noop", "words", "code", "reported"),
    [
        (1.0, (), 0, False),
        (4.0, (), 1, True),
        (4.0, ("--report-only",), 0, True),
        (1.0, ("--profile", "aio"), 0, False),
    ],
)
def test_the_benchmark_fails_above_a_bar_unless_it_only_reports(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    noop: float, words: tuple[str, ...], code: int, reported: bool,
) -> None:  # fmt: skip
    assert run(bench, monkeypatch, tmp_path, noop, *words) == code
    assert ("profiles.aio.ratios.noop_to_up is 0.2, its bar 0.15" in capsys.readouterr().err) == reported


def test_a_figure_that_is_not_measured_is_a_failure(bench: ModuleType) -> None:
    results: dict[str, Any] = {"profiles": {"aio": {"ratios": {"noop_to_up": 0.15}}}}
    rows = {"profiles.aio.ratios.noop_to_up": {"bar": 0.15}, "joins.ratio": {"bar": 1.5}, "profiles.ha.x": {"bar": 1}}
    assert bench.bars.missed(results, rows, ["aio"]) == ["joins.ratio was not measured"]


def test_kills_reach_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"preflight", "bundle", "provision", "addons", "validate"} <= set(stages())
    monkeypatch.delenv("CHAOS_KILLS", raising=False)
    spec = importlib.util.spec_from_file_location("chaos_of_this_test", TESTS / "chaos" / "test_chaos.py")
    assert spec
    assert spec.loader
    chaos = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chaos)
    assert chaos.KILLS >= 12
    assert stages() == chaos.STAGES
    assert len(chaos.STAGES) <= chaos.KILLS
