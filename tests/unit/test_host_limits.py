"""Kernel limits are raised on request, recorded, and restored."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host import limits

INSTANCES, WATCHES = "fs.inotify.max_user_instances", "fs.inotify.max_user_watches"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "sys/fs/inotify"
    folder.mkdir(parents=True)
    (folder / "max_user_instances").write_text("128\n")
    (folder / "max_user_watches").write_text("1048576\n")
    return tmp_path / "sys"


def instances(root: Path) -> str:
    return (root / "fs/inotify/max_user_instances").read_text().strip()


def test_only_limits_that_are_too_low_are_raised_and_restored(root: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    assert limits.raise_limits(root, record) == [f"{INSTANCES}: 128 -> 512"]
    assert limits.raise_limits(root, record) == []
    assert limits.recorded(record) == {INSTANCES: "128"}
    assert limits.restore(root, record) == [f"{INSTANCES}: 512 -> 128"]
    assert instances(root) == "128"
    assert limits.recorded(record) == {}
    assert limits.restore(root, record) == []


def test_the_first_value_is_the_one_that_is_restored(root: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    limits.raise_limits(root, record)
    (root / "fs/inotify/max_user_instances").write_text("200\n")
    assert limits.raise_limits(root, record) == [f"{INSTANCES}: 200 -> 512"]
    limits.restore(root, record)
    assert instances(root) == "128"


def test_a_limit_that_somebody_else_has_changed_stays(root: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    limits.raise_limits(root, record)
    (root / "fs/inotify/max_user_instances").write_text("4096\n")
    assert limits.restore(root, record) == []
    assert instances(root) == "4096"


def test_a_limit_that_cannot_be_set_is_named(root: Path, tmp_path: Path) -> None:
    # Its record cannot be written, so it stays.
    (tmp_path / "file").write_text("")
    with pytest.raises(DevenvError, match=f"{INSTANCES}: 128 cannot be set to 512: ") as caught:
        limits.raise_limits(root, tmp_path / "file" / "record.json")
    assert caught.value.reason.id == "limits_not_set"
    assert instances(root) == "128"


@pytest.mark.parametrize(
    ("nr_open", "capabilities", "hard", "expected"),
    [
        ("1073741816", "CapBnd:\t000001ffffffffff\n", 20000, limits.OPEN_FILES),
        ("65536", "CapBnd:\t000001ffffffffff\n", 20000, 65536),
        # Only CAP_SYS_RESOURCE raises the limit of the process.
        ("1048576", "CapBnd:\t000001fffeffffff\n", 20000, 20000),
        ("1048576", "CapBnd:\t000001fffeffffff\n", resource.RLIM_INFINITY, limits.OPEN_FILES),
    ],
)
def test_nodes_have_as_many_open_files_as_databases_need_if_the_host_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nr_open: str, capabilities: str, hard: int, expected: int
) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs/nr_open").write_text(nr_open)
    (tmp_path / "status").write_text(capabilities)
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _limit: (1024, hard))
    assert limits.open_files(tmp_path, tmp_path / "status") == expected
    assert limits.open_files_probe(expected).ok is (expected == limits.OPEN_FILES)
