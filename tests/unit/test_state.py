"""State directories: begin and end of stages, history, keys, status."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import processes
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, runs, ssh_keys, stages, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.lock import Holder
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def folder(home: Path) -> Path:
    return home / "environments" / "aio"


@pytest.fixture(scope="module")
def resolved() -> dict[str, Any]:
    return resolve("aio")


def me(run_id: str = "r1") -> Holder:
    return lock.holder_of(os.getpid(), run_id, "a test", "")


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(DevenvError) as caught:
        call()
    return caught.value.reason.id


def begin(folder: Path, stage: str = "preflight", **more: Any) -> stages.Begun:
    return stages.begin(folder, more.pop("holder", me()), stage, **{"hosts": 1, **more})


def modes(folder: Path) -> set[int]:
    return {path.lstat().st_mode & 0o077 for path in folder.rglob("*")}


def test_first_begin_makes_private_folders_and_later_ones_find_them(folder: Path, resolved: dict[str, Any]) -> None:
    first = begin(folder, resolved=resolved)
    again = begin(folder, "bundle", resolved=resolved, holder=me("another"))
    assert (first.first, first.created, again.first, again.created) == (True, True, False, False)
    assert first.run_dir is not None
    assert again.run_dir == first.run_dir
    assert again.run_id == "r1"
    assert re.fullmatch(r"\d{8}T\d{6}Z-r1", first.run_dir.name)
    assert yaml.safe_load((folder / "profile.yml").read_text()) == resolved
    assert modes(folder) == {0}
    assert [line["stage"] for line in runs.ledger(folder)] == ["preflight", "bundle"]


@pytest.mark.parametrize(("given", "hosts"), [(None, 0), (None, 1), ("aio", 0)])
def test_a_run_without_profile_or_hosts_is_refused_before_any_change(
    home: Path, folder: Path, given: str, hosts: int
) -> None:
    resolved = {"profile": given} if given else None
    assert reason(lambda: begin(folder, resolved=resolved, hosts=hosts)) == "profile_not_given"
    assert not home.exists()


def test_check_mode_writes_nothing_and_still_reports_busy(home: Path, folder: Path, resolved: dict[str, Any]) -> None:
    assert begin(folder, resolved=resolved, check=True) == stages.Begun("r1", None, True, True)
    assert not home.exists()
    child = subprocess.Popen(["sleep", "60"])
    try:
        lock.acquire(folder, lock.holder_of(child.pid, "r0", "other"))
        before = sorted(folder.rglob("*"))
        assert reason(lambda: begin(folder, resolved=resolved, check=True)) == "environment_busy"
        assert sorted(folder.rglob("*")) == before
    finally:
        child.kill()
        child.wait()


def test_busy_leaves_the_other_runs_folder_alone(folder: Path, resolved: dict[str, Any]) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        begin(folder, resolved=resolved, holder=lock.holder_of(child.pid, "r0", "other"))
        before = sorted(folder.rglob("*"))
        assert reason(lambda: begin(folder, resolved=resolved)) == "environment_busy"
        assert sorted(folder.rglob("*")) == before
    finally:
        child.kill()
        child.wait()


def changed(resolved: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(resolved)), **more}


def test_a_profile_that_cannot_be_applied_is_refused_once_nodes_may_exist(
    folder: Path, resolved: dict[str, Any]
) -> None:
    other = resolve("aio-dualstack-static")
    begin(folder, resolved=resolved)
    lock.release(folder, me())
    begin(folder, resolved=other)
    assert (state.read_profile(folder) or {})["profile"] == "aio-dualstack-static"
    begin(folder, "provision", resolved=other)
    lock.release(folder, me())
    with pytest.raises(DevenvError) as caught:
        begin(folder, resolved=resolved)
    assert caught.value.exit_code == 14
    assert "stack" in str(caught.value)
    assert "dualstack" in str(caught.value)
    assert lock.read(folder) is None
    assert (state.read_profile(folder) or {})["profile"] == "aio-dualstack-static"
    assert reason(lambda: begin(folder, resolved=resolved, check=True)) == "profile_changed"


def test_a_failed_first_begin_leaves_no_folder(
    home: Path, folder: Path, resolved: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> bool:
        raise OSError(28, "No space left on device", "profile.yml")

    monkeypatch.setattr(state, "write_profile", full)
    with pytest.raises(DevenvError) as caught:
        begin(folder, resolved=resolved)
    assert caught.value.reason.id == "state_unwritable"
    assert "No space left" in str(caught.value)
    assert list((home / "environments").iterdir()) == []


def test_provision_creates_keys_and_its_end_an_inventory_for_plain_ansible(
    folder: Path, resolved: dict[str, Any]
) -> None:
    begin(folder, "provision", resolved=resolved)
    assert (folder / "ssh" / "id_ed25519").exists()
    assert stages.end(folder, me(), "provision") is not None
    inventory = yaml.load((folder / "inventory.yml").read_text(), Loader=yaml.BaseLoader)
    assert list(inventory["all"]["hosts"]) == ["master-0"]
    assert lock.read(folder) is not None


def test_only_the_last_end_releases_the_lock(folder: Path, resolved: dict[str, Any]) -> None:
    begin(folder, resolved=resolved)
    stages.end(folder, me(), "preflight")
    assert lock.read(folder) is not None
    stages.end(folder, me(), "validate")
    assert lock.read(folder) is None
    begin(folder, resolved=resolved)
    stages.end(folder, me(), "preflight", last=True)
    assert lock.read(folder) is None
    assert reason(lambda: stages.end(folder, me(), "validate")) == "run_ended"


def test_down_keeps_the_last_ten_runs_in_the_history(home: Path, folder: Path, resolved: dict[str, Any]) -> None:
    old = datetime.now(UTC) - timedelta(days=1)
    begin(folder, "down", resolved=None, hosts=0)
    for number in range(12):
        kept = runs.make(folder, f"old{number}", old + timedelta(minutes=number))
        (kept / "log.txt").write_text("x")
    assert len(runs.folders(folder)) == runs.KEPT
    place = stages.end(folder, me(), "down")
    assert not folder.exists()
    assert list((home / "environments").iterdir()) == []
    assert {path.stat().st_mode & 0o077 for path in (home, home / "history", home / "history" / "aio")} == {0}
    history = sorted(path.name.partition("-")[2] for path in (home / "history" / "aio").iterdir())
    assert len(history) == runs.KEPT
    assert place == home / "history" / "aio" / (place.name if place else "")
    assert place is not None
    assert place.is_dir()
    assert "old2" not in history


def test_down_needs_no_folder_and_a_killed_removal_is_finished_by_the_next(home: Path, folder: Path) -> None:
    grave = home / "environments" / ".aio.0123.removed"
    (grave / "clusters").mkdir(parents=True)
    begin(folder, "down", resolved=None, hosts=0)
    stages.end(folder, me(), "down")
    assert list((home / "environments").iterdir()) == []
    assert state.environments(home) == []


def test_only_state_folders_of_good_names_are_ever_removed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert reason(lambda: stages.remove(tmp_path / "elsewhere")) == "name_invalid"
    assert reason(lambda: stages.remove(tmp_path / "environments" / "..")) == "name_invalid"
    assert reason(lambda: begin(tmp_path / "environments" / "Bad", resolved={}, hosts=1)) == "name_invalid"
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize("name", ["a", "aio", "a-1", "x" * 40])
def test_valid_names_are_accepted(name: str) -> None:
    assert profile_names.validate(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "../a", "a/b", "x" * 41, "ä", "a\n"])
def test_invalid_names_are_rejected(name: str) -> None:
    assert reason(lambda: profile_names.validate(name)) == "name_invalid"


def test_discard_removes_an_untouched_environment_and_keeps_the_log(
    home: Path, folder: Path, resolved: dict[str, Any]
) -> None:
    begun = begin(folder, resolved=resolved)
    moved = stages.discard(folder, me(), begun.run_id)
    assert not folder.exists()
    assert moved is not None
    assert moved.parent == home / "history" / "aio"


def test_discard_leaves_environments_that_may_have_nodes_and_those_of_others(
    folder: Path, resolved: dict[str, Any]
) -> None:
    begun = begin(folder, resolved=resolved)
    other = replace(me(), start=1)
    assert stages.discard(folder, other, begun.run_id) is None
    begin(folder, "provision", resolved=resolved)
    assert stages.discard(folder, me(), begun.run_id) is None
    assert folder.is_dir()


def test_run_folders_move_to_the_history_and_are_found_there(
    home: Path, folder: Path, resolved: dict[str, Any]
) -> None:
    begun = begin(folder, resolved=resolved)
    assert runs.find(folder, begun.run_id) == begun.run_dir
    moved = stages.discard(folder, me(), begun.run_id)
    assert runs.find(folder, begun.run_id) == moved
    assert runs.find(folder, "none") is None


# --- keys ---


def fingerprint(path: Path) -> str:
    return subprocess.run(["ssh-keygen", "-lf", str(path)], check=True, capture_output=True, text=True).stdout.split()[
        1
    ]


def test_keys_are_created_once_are_private_and_match_known_hosts(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    keys = ssh_keys.ensure_hosts(folder, ["master-0", "worker-0"])
    before = {path: path.read_bytes() for path in (folder / "ssh").rglob("*") if path.is_file()}
    assert ssh_keys.ensure_hosts(folder, ["master-0", "worker-0"]) == keys
    assert {path: path.read_bytes() for path in (folder / "ssh").rglob("*") if path.is_file()} == before
    private = [folder / "ssh" / "id_ed25519", *keys.values()]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder / "ssh").rglob("*") if path.is_dir()} == {0o700}
    assert len({fingerprint(path) for path in private}) == 3
    for key in keys.values():
        assert (key.parent / "authorized_keys").read_text() == (folder / "ssh" / "id_ed25519.pub").read_text()
    assert (
        ssh_keys.write_known_hosts(folder, {"master-0": ["10.0.0.10", "fd00::10"], "worker-0": ["10.0.0.11"]}) is True
    )
    assert (
        ssh_keys.write_known_hosts(folder, {"master-0": ["10.0.0.10", "fd00::10"], "worker-0": ["10.0.0.11"]}) is False
    )
    # ssh-keygen, independent of devenv, reports which key belongs to an address.
    known = folder / "ssh" / "known_hosts"
    for place, node in [
        ("10.0.0.10", "master-0"),
        ("fd00::10", "master-0"),
        ("worker-0", "worker-0"),
        ("10.0.0.11", "worker-0"),
    ]:
        shown = subprocess.run(
            ["ssh-keygen", "-F", place, "-f", str(known), "-l"], check=True, capture_output=True, text=True
        )
        assert fingerprint(keys[node]) in shown.stdout


def test_an_incomplete_key_pair_is_recreated(folder: Path) -> None:
    key = ssh_keys.ensure(folder)
    key.with_name("id_ed25519.pub").unlink()
    ssh_keys.ensure(folder)
    derived = subprocess.run(["ssh-keygen", "-y", "-f", str(key)], check=True, capture_output=True, text=True).stdout
    assert derived.split()[:2] == key.with_name("id_ed25519.pub").read_text().split()[:2]


def test_missing_ssh_keygen_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert reason(lambda: ssh_keys.ensure(folder)) == "ssh_keygen_failed"


# --- status ---


def test_environments_are_folders_with_good_names(home: Path) -> None:
    assert state.environments(home) == []
    for name in ("b", "a", ".a.12.removed", "Bad"):
        (home / "environments" / name).mkdir(parents=True)
    (home / "environments" / "file").write_text("")
    assert state.environments(home) == ["a", "b"]


def test_read_returns_the_existing_parts(folder: Path, resolved: dict[str, Any]) -> None:
    empty = state.read(folder)
    assert (empty.profile, empty.network, empty.run_dir, empty.last_run, empty.holder) == (None, None, None, None, None)
    begun = begin(folder, resolved=resolved)
    assert begun.run_dir is not None
    (begun.run_dir / "summary.json").write_text('{"exit": 9}')
    (begun.run_dir / "failure.json").write_text('{"reason": "memory_short"}')
    network = {"subnets": {"ipv4": "10.213.4.0/24"}, "clusters": {}, "nodes": {}}
    state.write_network(folder, network)
    parts = state.read(folder)
    assert parts.profile == resolved
    assert parts.network == network
    assert (parts.last_run, parts.failure) == ({"exit": 9}, {"reason": "memory_short"})
    assert parts.holder == me() or (parts.holder is not None and parts.holder.pid == os.getpid())
    lock.release(folder, me())
    assert state.read(folder).holder is None


def test_a_stale_lock_has_no_holder(folder: Path) -> None:
    folder.mkdir(parents=True)
    stale = replace(me(), boot="another")
    (folder / "lock").write_text(json.dumps({**stale.__dict__, "pipes": []}))
    assert lock.read(folder) == replace(stale, pipes=())
    assert state.read(folder).holder is None


@pytest.mark.parametrize("text", ["[", "- a", "text", "\x00"])
def test_a_broken_file_is_named(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "network.yml").write_text(text)
    with pytest.raises(DevenvError) as caught:
        state.read_network(folder)
    assert caught.value.reason.id == "state_broken"
    assert "network.yml" in str(caught.value)


def test_a_truncated_line_of_the_ledger_is_skipped(folder: Path) -> None:
    folder.mkdir(parents=True)
    runs.add_line(folder, run="r1", stage="bundle", result="done", seconds=1.234567, changed=2)
    with (folder / "ledger.jsonl").open("a") as stream:
        stream.write('{"time": "2026')
    (line,) = runs.ledger(folder)
    assert set(line) == {"time", "run", "stage", "seconds", "result", "changed"}
    assert (line["seconds"], line["changed"]) == (1.23, 2)


def test_boot_id_is_the_kernels() -> None:
    assert processes.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
