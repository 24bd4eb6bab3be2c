"""Merging kubeconfigs by client-go's rules."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import kubeconfig_merge


def config(*names: str, current: str = "", **more: Any) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": f"https://{name}"}} for name in names],
            "users": [{"name": name, "user": {"token": f"token-{name}"}} for name in names],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}} for name in names],
            "current-context": current,
            **more,
        }
    )


def contexts(path: Path) -> list[str]:
    return [entry["name"] for entry in yaml.safe_load(path.read_text())["contexts"]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "x" / "clusters" / "main" / "kubeconfig"
    path.parent.mkdir(parents=True)
    path.write_text(config("devenv-x", current="devenv-x"))
    return path


def env_of(tmp_path: Path, *files: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "KUBECONFIG": os.pathsep.join(map(str, files))}


def test_a_new_file_is_private(tmp_path: Path, source: Path) -> None:
    assert kubeconfig_merge.merge(source, {"HOME": str(tmp_path)}) == [tmp_path / ".kube" / "config"]
    config_file = tmp_path / ".kube" / "config"
    assert contexts(config_file) == ["devenv-x"]
    assert config_file.stat().st_mode & 0o777 == 0o600
    assert "current-context" not in yaml.safe_load(config_file.read_text())


def test_other_entries_and_the_current_context_stay(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    path.write_text(config("other", current="other", extensions=[{"name": "kept"}]))
    path.chmod(0o640)
    kubeconfig_merge.merge(source, env_of(tmp_path, path))
    document = yaml.safe_load(path.read_text())
    assert contexts(path) == ["other", "devenv-x"]
    assert document["current-context"] == "other"
    assert document["extensions"] == [{"name": "kept"}]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_second_merge_changes_nothing(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    path.write_text(config("other"))
    assert kubeconfig_merge.merge(source, env_of(tmp_path, path)) == [path]
    before = path.stat().st_mtime_ns
    assert kubeconfig_merge.merge(source, env_of(tmp_path, path)) == []
    assert path.stat().st_mtime_ns == before


def test_an_entry_is_replaced_in_the_file_that_has_it(tmp_path: Path, source: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(config("other"))
    second.write_text(config("devenv-x").replace("https://devenv-x", "https://old"))
    assert kubeconfig_merge.merge(source, env_of(tmp_path, first, second)) == [second]
    assert contexts(first) == ["other"]
    assert "https://old" not in second.read_text()


def test_a_new_entry_goes_to_the_first_file_that_exists(tmp_path: Path, source: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text(config("other"))
    assert kubeconfig_merge.merge(source, env_of(tmp_path, first, second)) == [second]
    assert not first.exists()


def test_a_new_entry_goes_to_the_last_file_if_none_exists(tmp_path: Path, source: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert kubeconfig_merge.merge(source, env_of(tmp_path, first, second)) == [second]


def test_merge_skips_the_environments_own_file(tmp_path: Path, source: Path) -> None:
    before = source.read_text()
    assert kubeconfig_merge.merge(source, env_of(tmp_path, source)) == [tmp_path / ".kube" / "config"]
    assert source.read_text() == before


def test_a_link_stays_a_link(tmp_path: Path, source: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "config"
    real.write_text(config("other"))
    link.symlink_to(real)
    kubeconfig_merge.merge(source, env_of(tmp_path, link))
    assert link.is_symlink()
    assert contexts(real) == ["other", "devenv-x"]


def test_unmerge_removes_only_the_entries_of_the_environment(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    path.write_text(config("other", "devenv-x-2", current="devenv-x"))
    env = env_of(tmp_path, path)
    kubeconfig_merge.merge(source, env)
    assert kubeconfig_merge.unmerge(tmp_path / "x", env) == [path]
    assert contexts(path) == ["other", "devenv-x-2"]
    assert yaml.safe_load(path.read_text())["current-context"] == ""
    assert kubeconfig_merge.unmerge(tmp_path / "x", env) == []


def test_unmerge_finds_files_of_another_shell(tmp_path: Path, source: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        path.write_text(config("other"))
        kubeconfig_merge.merge(source, env_of(tmp_path, path))
    second.unlink()
    env = {"HOME": str(tmp_path)}
    assert kubeconfig_merge.unmerge(tmp_path / "x", env) == [first]
    assert contexts(first) == ["other"]
    assert not source.with_name("merged.json").exists()
    assert kubeconfig_merge.unmerge(tmp_path / "gone", env) == []


def test_unmerge_skips_the_environments_own_file(tmp_path: Path, source: Path) -> None:
    before = source.read_text()
    assert kubeconfig_merge.unmerge(tmp_path / "x", env_of(tmp_path, source)) == []
    assert source.read_text() == before


def test_the_error_for_a_broken_file_does_not_quote_it(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    path.write_text("token: secret-word\n  bad: [")
    with pytest.raises(DevenvError, match="cannot be read") as caught:
        kubeconfig_merge.merge(source, env_of(tmp_path, path))
    assert str(path) in str(caught.value)
    assert "secret-word" not in str(caught.value)
    assert path.read_text().startswith("token")
    assert not path.with_name("config.lock").exists()


def test_merge_waits_for_the_lock_of_another_program(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    path.write_text(config("other"))
    lock = tmp_path / "config.lock"
    lock.touch()
    threading.Timer(0.4, lock.unlink).start()
    began = time.monotonic()
    kubeconfig_merge.merge(source, env_of(tmp_path, path))
    assert time.monotonic() - began >= 0.3
    assert contexts(path) == ["other", "devenv-x"]
    assert not lock.exists()


def test_merge_fails_if_the_lock_stays(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    path.write_text(config("other"))
    (tmp_path / "config.lock").touch()
    with pytest.raises(DevenvError, match="holds the lock"):
        kubeconfig_merge.merge(source, env_of(tmp_path, path), wait=0.2)
    assert contexts(path) == ["other"]
