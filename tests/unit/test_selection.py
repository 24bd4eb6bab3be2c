"""What a run of stages has not done, and the line that a partial run ends with."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.records import selection
from ansible_collections.devenv.lab.plugins.plugin_utils.records.selection import STAGES

HERE = ["localhost"]
NODES = ["master-0", "worker-0", "store-0"]
EVERYTHING = dict.fromkeys(STAGES, HERE) | {"prepare": [*HERE, *NODES], "kubernetes": [*HERE, *NODES[:2]]}


@pytest.mark.parametrize(
    ("planned", "reached", "missing"),
    [
        (STAGES, EVERYTHING, []),
        (STAGES, {**EVERYTHING, "prepare": ["localhost", "master-0"]}, ["prepare on store-0, worker-0"]),
        # store-0 is a bare node: it needs no Kubernetes.
        (STAGES, {**EVERYTHING, "kubernetes": ["localhost", "master-0"]}, ["kubernetes on worker-0"]),
        (STAGES, {"preflight": HERE, "bundle": HERE}, list(STAGES[2:])),
        (STAGES, {}, list(STAGES)),
        (("provision", "validate"), {"provision": HERE}, ["validate"]),
        # The certificates are renewed on control plane nodes only.
        (("kubernetes", "validate"), {"kubernetes": ["master-0"], "validate": HERE}, []),
        ((), {}, []),
    ],
)
def test_remaining_lists_stages_and_nodes_that_a_run_has_not_reached(
    planned: list[str], reached: dict[str, list[str]], missing: list[str]
) -> None:
    assert selection.remaining(planned, reached, NODES, ["store-0"]) == missing


@pytest.mark.parametrize(
    ("arguments", "partial"),
    [
        ({"tags": ("all",), "skip_tags": (), "start_at_task": None, "step": False, "check": False}, False),
        ({}, False),
        ({"tags": ("labels",)}, True),
        ({"tags": ("all",), "skip_tags": ("validate",)}, True),
        ({"check": True}, True),
        ({"step": True}, True),
        ({"start_at_task": "Create the nodes"}, True),
    ],
)
def test_options_that_leave_out_tasks_make_a_run_partial(arguments: dict[str, Any], partial: bool) -> None:
    assert selection.is_partial(arguments) is partial


@pytest.mark.parametrize(
    ("results", "remaining", "line"),
    [
        (["done", "done", "skipped"], ["labels"], "lab: done to bundle; not done: labels"),
        (["skipped", "skipped", "done"], ["preflight", "bundle"], "lab: done to labels; not done: preflight, bundle"),
        (["done", "done", "done"], [], "lab: done to labels"),
        (["skipped", "skipped", "skipped"], ["labels"], "lab: nothing was done; not done: labels"),
    ],
)
def test_the_closing_line_states_what_was_done(results: list[str], remaining: list[str], line: str) -> None:
    stages = [
        {"name": name, "result": result}
        for name, result in zip(("preflight", "bundle", "labels"), results, strict=True)
    ]
    assert selection.closing_line({"environment": "lab", "stages": stages, "remaining": remaining}) == line


def test_every_play_of_a_stage_of_cluster_has_the_tag_of_its_stage() -> None:
    folder = paths.COLLECTION / "playbooks"
    imports = [
        play.get("ansible.builtin.import_playbook") for play in yaml.safe_load((folder / "cluster.yml").read_text())
    ]
    plays = [play for name in imports if name for play in yaml.safe_load((folder / name).read_text())]
    assert {selection.stage_of(play["name"]) for play in plays} == set(STAGES)
    assert [play["name"] for play in plays if play.get("tags") != [selection.stage_of(play["name"])]] == []
