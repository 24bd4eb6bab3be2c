"""Which options of `up` run the stages of an environment that has not changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.convergence import unchanged
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

from devenv import operations
from devenv.environments import target
from devenv.runs import playbook, runner

GOAL = target.Target("mine", {"profile": "aio", "devenv_name": "mine"}, resolve("aio"))


@pytest.fixture(autouse=True)
def converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged, "is_unchanged", lambda folder, resolved: True)


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({}, False),
        ({"timeout": 60.0}, False),
        ({"forks": 4}, False),
        ({"full": True}, True),
        ({"verbosity": 1}, True),
        ({"check": True}, True),
        ({"diff": True}, True),
        ({"tags": "labels"}, True),
        ({"limit": "master-0"}, True),
        ({"extra": ({"node_labels_timeout": 1},)}, True),
        ({"arguments": ("--step",)}, True),
        ({"artifacts": Path("/nowhere")}, True),
    ],
)
def test_options_that_need_the_stages(requests: list[runner.Request], options: dict[str, Any], runs: bool) -> None:
    result = operations.up(GOAL, playbook.Options(**options))
    assert bool(requests) is runs
    assert ("nothing has changed" in result.text) is not runs
    # The command has compared, or does not want it: the playbook need not.
    assert all(request.variables["devenv_full"] is True for request in requests)


def test_a_start_from_a_snapshot_runs_the_stages(requests: list[runner.Request]) -> None:
    operations.up(target.Target("mine", {**GOAL.variables, "devenv_snapshot": "saved"}, GOAL.resolved))
    assert len(requests) == 1


def test_a_run_of_the_command_counts_as_complete() -> None:
    from ansible_collections.devenv.lab.plugins.action import convergence

    partial = {"devenv_snapshot", "devenv_kubernetes_version"}
    assert set(playbook.RESERVED) - partial <= convergence.RUN_VARIABLES
    assert not partial & convergence.RUN_VARIABLES
