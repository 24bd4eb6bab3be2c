"""The secret for joins: private, whole, young."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.engines.kubeadm import join_secret


def test_a_secret_is_created_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "clusters" / "main" / "join.json"
    assert join_secret.ensure(path, time.time())
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    values = json.loads(path.read_text())
    assert join_secret.TOKEN.fullmatch(values["token"])
    assert join_secret.KEY.fullmatch(values["certificate_key"])
    assert not join_secret.ensure(path, time.time())
    assert json.loads(path.read_text()) == values
    assert os.listdir(path.parent) == ["join.json"]


def test_an_old_secret_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "join.json"
    join_secret.ensure(path, time.time())
    before = path.read_text()
    assert join_secret.ensure(path, time.time() + join_secret.MOST_SECONDS + 1)
    assert path.read_text() != before


@pytest.mark.parametrize(
    "text", ["", "half", "[]", '{"token": "a"}', '{"token": "abcdef.0123456789abcdef", "certificate_key": "00"}']
)
def test_a_broken_secret_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "join.json"
    path.write_text(text)
    assert join_secret.ensure(path, time.time())
    assert not join_secret.ensure(path, time.time())


def test_check_mode_creates_and_removes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "join.json"
    assert join_secret.ensure(path, time.time(), check=True)
    assert os.listdir(tmp_path) == []
    path.write_text("x")
    assert join_secret.remove(path, check=True)
    assert path.exists()


def test_removal_includes_files_of_a_killed_run(tmp_path: Path) -> None:
    path = tmp_path / "join.json"
    path.write_text("x")
    (tmp_path / ".join.json.abc").write_text("x")
    assert join_secret.remove(path)
    assert os.listdir(tmp_path) == []
    assert not join_secret.remove(path)


def test_each_new_secret_differs() -> None:
    assert len({join_secret.new()["token"] for _ in range(50)}) == 50
