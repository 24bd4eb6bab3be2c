"""The options of `up` that run the stages of an environment that has not changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.convergence import unchanged
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from support.runs import Request

from devenv import operations
from devenv.environments import target
from devenv.runs import playbook
from devenv.runs.runner import Options

GOAL = target.Target("mine", {"profile": "aio", "devenv_name": "mine"}, resolve("aio"))


@pytest.fixture(autouse=True)
def converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged, "is_unchanged", lambda folder, resolved: True)


@pytest.mark.parametrize(
    ("options", "stages_run"),
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
        ({"arguments": ("--skip-tags", "x")}, True),
        ({"artifacts": Path("/nowhere")}, True),
    ],
)
def test_options_that_need_the_stages(requests: list[Request], options: dict[str, Any], stages_run: bool) -> None:
    result = operations.up(GOAL, Options(**options))
    assert bool(requests) is stages_run
    assert ("nothing has changed" in result.text) is not stages_run
    # The command has compared already or need not, so the playbook does not compare.
    assert all(request.variables["devenv_full"] is True for request in requests)


def test_up_from_a_snapshot_runs_the_stages(requests: list[Request]) -> None:
    operations.up(target.Target("mine", {**GOAL.variables, "devenv_snapshot": "saved"}, GOAL.resolved))
    assert len(requests) == 1


def test_variables_of_the_command_do_not_make_a_run_partial() -> None:
    from ansible_collections.devenv.lab.plugins.action import convergence

    partial = {"devenv_snapshot"}
    assert set(playbook.RESERVED) - partial <= convergence.RUN_VARIABLES
    assert not partial & convergence.RUN_VARIABLES
