"""Which changes make cluster.yml run its stages again after a run that converged the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.convergence import unchanged
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

RESOLVED = resolve("aio")
SEEN: dict[str, str] = {}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory as a run leaves it; nodes and API answer with what ``SEEN`` holds."""
    made = tmp_path / "environments" / "mine"
    run = made / "runs" / "20260101T000000Z-aaaaaaaaaaaa"
    run.mkdir(parents=True)
    state.write_profile(made, RESOLVED)
    (made / "inventory.yml").write_text("all: {}\n")
    collection = tmp_path / "collection"
    (collection / "roles").mkdir(parents=True)
    (collection / "roles" / "main.yml").write_text("one")
    monkeypatch.setattr(paths, "COLLECTION", collection)
    monkeypatch.setattr(unchanged, "observe", lambda folder, resolved: dict(SEEN) or None)
    SEEN.clear()
    SEEN["master-0: file /etc/one"] = "digest"
    assert unchanged.record(made, RESOLVED, run)
    return made


def test_an_unchanged_environment_is_recognised(folder: Path) -> None:
    assert unchanged.is_unchanged(folder, RESOLVED)
    assert unchanged.is_unchanged(folder, json.loads(json.dumps(RESOLVED)))


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
    "broken profile": lambda folder: (folder / "profile.yml").write_text("["),
    "broken record": lambda folder: (folder / unchanged.FILE).write_text("{"),
    "no record": lambda folder: (folder / unchanged.FILE).unlink(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_each_change_is_detected(folder: Path, what: str) -> None:
    CHANGES[what](folder)
    assert not unchanged.is_unchanged(folder, RESOLVED)


def test_another_profile_is_a_change(folder: Path) -> None:
    assert not unchanged.is_unchanged(folder, resolve("aio", overrides={"nodes.master-0.labels.team": "blue"}))


def test_a_run_that_another_one_followed_is_not_recorded(folder: Path) -> None:
    older = folder / "runs" / "20260101T000000Z-aaaaaaaaaaaa"
    (folder / "runs" / "20260102T000000Z-bbbbbbbbbbbb").mkdir()
    assert not unchanged.record(folder, RESOLVED, older)
    assert not (folder / unchanged.FILE).exists()


def test_an_environment_that_is_not_ready_is_not_recorded(folder: Path) -> None:
    SEEN.clear()
    assert not unchanged.record(folder, RESOLVED, folder / "runs" / "20260101T000000Z-aaaaaaaaaaaa")
    assert not (folder / unchanged.FILE).exists()


def test_the_record_is_private(folder: Path) -> None:
    assert (folder / unchanged.FILE).stat().st_mode & 0o777 == 0o600
