"""`devenv snapshot` and `devenv up --snapshot`: arguments and refusals. Runs are replaced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from support.runs import Request

from devenv.environments import target

Devenv = Callable[..., tuple[int, str, str]]


@pytest.fixture
def saved(own_home: Path) -> Callable[..., Path]:
    def make(snapshot: str, /, **changes: object) -> Path:
        folder = own_home / "snapshots" / snapshot
        folder.mkdir(parents=True)
        (folder / "etcd-main.db").write_bytes(b"data")
        row = {"sha256": hashlib.sha256(b"data").hexdigest(), "size": 4}
        manifest = {
            "format": 1, "made": "2026-11-21T15:00:00+00:00", "environment": "first", "network": {},
            "profile": resolve("aio", overrides={"storage.enabled": True}) | changes, "clusters": {},
            "nodes": {"master-0": {"images": ["example.test/shop:1"]}}, "files": {"etcd-main.db": row},
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return make


def test_up_takes_the_profile_from_the_snapshot(
    devenv: Devenv, requests: list[Request], saved: Callable[..., Path]
) -> None:
    saved("with-data")
    assert devenv("up", "--snapshot", "with-data", "--name", "second")[0] == 0
    assert devenv("up", "--snapshot", "with-data", "--set", "nodes.master-0.labels.team=blue")[0] == 0
    assert [request.playbook for request in requests] == ["cluster", "cluster"]
    given, changed = (request.variables for request in requests)
    assert (given["devenv_snapshot"], given["devenv_name"]) == ("with-data", "second")
    assert not {"profile", "devenv_overrides"} & given.keys()
    # The default name is that of the saved profile.
    assert changed["devenv_name"] == "aio"
    assert changed["devenv_overrides"] == {"nodes.master-0.labels.team": "blue"}


def test_overrides_apply_to_the_saved_profile(own_home: Path, saved: Callable[..., Path]) -> None:
    saved("with-data", name="mine")
    goal = target.resolve(None, "second", {"nodes.master-0.memory": "4GiB"}, snapshot="with-data")
    assert goal.resolved["name"] == "mine"
    assert goal.resolved["storage"]["enabled"] is True
    assert goal.resolved["nodes"][0]["memory"] == 4 << 30


def test_a_snapshot_with_an_unreadable_profile_requires_one(
    devenv: Devenv, requests: list[Request], saved: Callable[..., Path]
) -> None:
    saved("of-tomorrow", stack="ipv8")
    code, _out, err = devenv("up", "--snapshot", "of-tomorrow")
    assert code == 2
    assert "of-tomorrow" in err
    assert "--profile" in err
    assert requests == []


def test_an_unknown_snapshot_is_refused_with_the_nearest_name(
    devenv: Devenv, requests: list[Request], saved: Callable[..., Path]
) -> None:
    saved("with-data")
    for words in (("up", "--snapshot", "with-dat"), ("snapshot", "rm", "with-dat")):
        code, _out, err = devenv(*words)
        assert code == 2
        assert "with-data" in err
    assert requests == []


def test_save_refuses_an_invalid_name_before_it_runs(
    devenv: Devenv, requests: list[Request], saved: Callable[..., Path], made: Callable[..., Path]
) -> None:
    made("first")
    saved("taken")
    assert [devenv("snapshot", "save", name)[0] for name in ("taken", "No", "a/b")] == [2, 2, 2]
    assert requests == []
    assert devenv("snapshot", "save", "free", "--force")[0] == 0
    assert requests[0].playbook == "snapshot"
    assert requests[0].variables["devenv_snapshot"] == "free"
    assert requests[0].variables["devenv_force"] is True


def test_list_shows_broken_snapshots_and_rm_removes_them(devenv: Devenv, saved: Callable[..., Path]) -> None:
    assert json.loads(devenv("snapshot", "list", "--json")[1]) == []
    saved("with-data")
    (saved("cut") / "etcd-main.db").unlink()
    rows = {row["name"]: row["state"] for row in json.loads(devenv("snapshot", "list", "--json")[1])}
    assert rows == {"with-data": "whole", "cut": "broken"}
    assert "with-data" in devenv("snapshot", "list")[1]
    assert [devenv("snapshot", "rm", name)[0] for name in ("cut", "with-data", "with-data")] == [0, 0, 2]
    assert json.loads(devenv("snapshot", "list", "--json")[1]) == []
