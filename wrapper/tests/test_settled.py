"""What makes an `up` run its stages though it found the environment settled once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import profile

from devenv import operations
from devenv.environments import target, unchanged
from devenv.runs import playbook, runner
from devenv.runs.outcome import RunOutcome

NAME = "mine"
RESOLVED = profile.resolve("aio")


@pytest.fixture
def folder(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder as a run leaves it; nodes and API answer with what ``seen`` holds."""
    made = paths.environment(NAME)
    run = made / "runs" / "20260101T000000Z-aaaaaaaaaaaa"
    run.mkdir(parents=True)
    state.write_profile(made, RESOLVED)
    (made / "inventory.yml").write_text("all: {}\n")
    collection = own_home.parent / "collection"
    (collection / "roles").mkdir(parents=True)
    (collection / "roles" / "main.yml").write_text("one")
    monkeypatch.setattr(paths, "COLLECTION", collection)
    monkeypatch.setattr(unchanged, "look", lambda name, resolved: dict(SEEN) or None)
    SEEN.clear()
    SEEN["master-0: file /etc/one"] = "digest"
    unchanged.note(NAME, RESOLVED, run)
    return made


SEEN: dict[str, str] = {}


def test_nothing_changed(folder: Path) -> None:
    assert unchanged.still(NAME, RESOLVED)
    assert unchanged.still(NAME, json.loads(json.dumps(RESOLVED)))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "another run": lambda folder: (folder / "runs" / "20260102T000000Z-bbbbbbbbbbbb").mkdir(),
    "a node": lambda folder: SEEN.update({"master-0: file /etc/one": "another"}),
    "a node's silence": lambda folder: SEEN.clear(),
    "network": lambda folder: state.write_network(folder, {"nodes": {}}),
    "inventory": lambda folder: (folder / "inventory.yml").write_text("all: {hosts: {}}\n"),
    "kubeconfig": lambda folder: (folder / "kubeconfig").write_text("{}"),
    "collection": lambda folder: (paths.COLLECTION / "roles" / "main.yml").write_text("another"),
    "its date alone": lambda folder: os.utime(paths.COLLECTION / "roles" / "main.yml", (1, 1)),
    "snapshot to finish": lambda folder: (folder / "snapshot.json").write_text("{}"),
    "broken note": lambda folder: (folder / unchanged.NOTE).write_text("{"),
    "no note": lambda folder: (folder / unchanged.NOTE).unlink(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_something_changed(folder: Path, what: str) -> None:
    CHANGES[what](folder)
    assert not unchanged.still(NAME, RESOLVED)


def test_another_profile_is_wanted(folder: Path) -> None:
    assert not unchanged.still(NAME, profile.resolve("aio", overrides={"nodes.master-0.labels.team": "blue"}))
    assert not unchanged.still(NAME, None)


def test_a_run_that_another_one_followed_is_not_noted(folder: Path) -> None:
    older = folder / "runs" / "20260101T000000Z-aaaaaaaaaaaa"
    (folder / "runs" / "20260102T000000Z-bbbbbbbbbbbb").mkdir()
    unchanged.note(NAME, RESOLVED, older)
    assert not (folder / unchanged.NOTE).exists()


def test_what_is_not_ready_is_not_noted(folder: Path) -> None:
    SEEN.clear()
    unchanged.note(NAME, RESOLVED, folder / "runs" / "20260101T000000Z-aaaaaaaaaaaa")
    assert not (folder / unchanged.NOTE).exists()


def test_the_note_is_private(folder: Path) -> None:
    assert (folder / unchanged.NOTE).stat().st_mode & 0o777 == 0o600


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
def test_options_that_want_the_stages(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], runs: bool
) -> None:
    asked: list[runner.Request] = []

    def run(request: runner.Request, watcher: object = None) -> RunOutcome:
        asked.append(request)
        return RunOutcome("cccccccccccc")

    monkeypatch.setattr(runner, "run", run)
    goal = target.Target(NAME, {"profile": "aio", "devenv_name": NAME}, RESOLVED)
    result = operations.up(goal, playbook.Options(**options))
    assert bool(asked) is runs
    assert ("nothing has changed" in result.text) is not runs
