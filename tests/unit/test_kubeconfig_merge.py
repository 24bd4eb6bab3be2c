"""Merging kubeconfigs by client-go's rules."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
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
    assert kubeconfig_merge.merge([source], {"HOME": str(tmp_path)}) == [tmp_path / ".kube" / "config"]
    config_file = tmp_path / ".kube" / "config"
    assert contexts(config_file) == ["devenv-x"]
    assert config_file.stat().st_mode & 0o777 == 0o600
    assert "current-context" not in yaml.safe_load(config_file.read_text())


def test_other_entries_and_the_current_context_stay(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    path.write_text(config("other", current="other", extensions=[{"name": "kept"}]))
    path.chmod(0o640)
    kubeconfig_merge.merge([source], env_of(tmp_path, path))
    document = yaml.safe_load(path.read_text())
    assert contexts(path) == ["other", "devenv-x"]
    assert document["current-context"] == "other"
    assert document["extensions"] == [{"name": "kept"}]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_second_merge_changes_nothing(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    path.write_text(config("other"))
    assert kubeconfig_merge.merge([source], env_of(tmp_path, path)) == [path]
    before = path.stat().st_mtime_ns
    assert kubeconfig_merge.merge([source], env_of(tmp_path, path)) == []
    assert path.stat().st_mtime_ns == before


def test_an_entry_is_replaced_in_the_file_that_has_it(tmp_path: Path, source: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(config("other"))
    second.write_text(config("devenv-x").replace("https://devenv-x", "https://old"))
    assert kubeconfig_merge.merge([source], env_of(tmp_path, first, second)) == [second]
    assert contexts(first) == ["other"]
    assert "https://old" not in second.read_text()


def test_a_new_entry_goes_to_the_first_file_that_exists(tmp_path: Path, source: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text(config("other"))
    assert kubeconfig_merge.merge([source], env_of(tmp_path, first, second)) == [second]
    assert not first.exists()


def test_a_new_entry_goes_to_the_last_file_if_none_exists(tmp_path: Path, source: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert kubeconfig_merge.merge([source], env_of(tmp_path, first, second)) == [second]


def test_merge_skips_the_environments_own_file(tmp_path: Path, source: Path) -> None:
    before = source.read_text()
    assert kubeconfig_merge.merge([source], env_of(tmp_path, source)) == [tmp_path / ".kube" / "config"]
    assert source.read_text() == before


def test_a_link_stays_a_link(tmp_path: Path, source: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "config"
    real.write_text(config("other"))
    link.symlink_to(real)
    kubeconfig_merge.merge([source], env_of(tmp_path, link))
    assert link.is_symlink()
    assert contexts(real) == ["other", "devenv-x"]


def test_unmerge_removes_only_the_entries_of_the_environment(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    path.write_text(config("other", "devenv-x-2", current="devenv-x"))
    env = env_of(tmp_path, path)
    kubeconfig_merge.merge([source], env)
    assert kubeconfig_merge.unmerge(tmp_path / "x", env) == [path]
    assert contexts(path) == ["other", "devenv-x-2"]
    assert yaml.safe_load(path.read_text())["current-context"] == ""
    assert kubeconfig_merge.unmerge(tmp_path / "x", env) == []


def test_unmerge_finds_files_of_another_shell(tmp_path: Path, source: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        path.write_text(config("other"))
        kubeconfig_merge.merge([source], env_of(tmp_path, path))
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
        kubeconfig_merge.merge([source], env_of(tmp_path, path))
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
    kubeconfig_merge.merge([source], env_of(tmp_path, path))
    assert time.monotonic() - began >= 0.3
    assert contexts(path) == ["other", "devenv-x"]
    assert not lock.exists()


def test_merge_fails_if_the_lock_stays(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    path.write_text(config("other"))
    (tmp_path / "config.lock").touch()
    with pytest.raises(DevenvError, match="holds the lock"):
        kubeconfig_merge.merge([source], env_of(tmp_path, path), wait=0.2)
    assert contexts(path) == ["other"]


# --- files that are not plain ----------------------------------------------------------------------------------------


def device(path: Path) -> Path:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("cannot create a device")
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def directory(path: Path) -> Path:
    path.mkdir()
    return path


def listener(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


def link_to_a_device(path: Path) -> Path:
    path.symlink_to(device(path.with_name("null")))
    return path


def circle(path: Path) -> Path:
    path.symlink_to(path)
    return path


SPECIAL = [device, fifo, directory, listener, link_to_a_device, circle]


@pytest.mark.parametrize("special", SPECIAL)
def test_merge_refuses_what_is_not_a_regular_file(
    tmp_path: Path, source: Path, special: Callable[[Path], Path]
) -> None:
    folder = tmp_path / "devices"
    folder.mkdir()
    path = special(folder / "config")
    before = [(entry.name, entry.lstat()) for entry in sorted(folder.iterdir())]
    with pytest.raises(DevenvError, match=r"regular file|cannot be read") as caught:
        kubeconfig_merge.merge([source], env_of(tmp_path, path))
    assert str(path) in str(caught.value)
    assert caught.value.reason.id == "user_kubeconfig_invalid"
    # Neither replaced nor accompanied by a lock.
    assert [(entry.name, entry.lstat()) for entry in sorted(folder.iterdir())] == before


@pytest.mark.parametrize("special", SPECIAL)
def test_unmerge_skips_what_is_not_a_regular_file(
    tmp_path: Path, source: Path, special: Callable[[Path], Path]
) -> None:
    path = special(tmp_path / "special")
    before = path.lstat()
    assert kubeconfig_merge.unmerge(tmp_path / "x", env_of(tmp_path, path)) == []
    assert path.lstat() == before


def test_a_file_keeps_inode_hard_links_owner_and_mode(tmp_path: Path, source: Path) -> None:
    path, second = tmp_path / "config", tmp_path / "second"
    path.write_text(config("other"))
    os.link(path, second)
    path.chmod(0o440)
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    before = path.stat()
    env = env_of(tmp_path, path)
    for change in (
        lambda: kubeconfig_merge.merge([source], env),
        lambda: kubeconfig_merge.unmerge(tmp_path / "x", env),
    ):
        if os.geteuid() != 0:
            path.chmod(0o640)
            before = path.stat()
        assert change() == [path]
        after = path.stat()
        assert (after.st_ino, after.st_nlink, after.st_uid, after.st_gid, after.st_mode) == (
            before.st_ino,
            before.st_nlink,
            before.st_uid,
            before.st_gid,
            before.st_mode,
        )
        assert second.read_text() == path.read_text()


def test_a_chain_of_links_stays_and_its_file_is_changed(tmp_path: Path, source: Path) -> None:
    real, middle, link = tmp_path / "real", tmp_path / "middle", tmp_path / "config"
    real.write_text(config("other"))
    middle.symlink_to("real")
    link.symlink_to(middle)
    inode = real.stat().st_ino
    kubeconfig_merge.merge([source], env_of(tmp_path, link))
    assert (os.readlink(link), os.readlink(middle)) == (str(middle), "real")
    assert real.stat().st_ino == inode
    assert contexts(real) == ["other", "devenv-x"]


def test_a_dangling_link_gets_its_file_and_loses_it_again(tmp_path: Path, source: Path) -> None:
    target, link = tmp_path / "later", tmp_path / "config"
    link.symlink_to(target)
    env = env_of(tmp_path, link)
    assert kubeconfig_merge.merge([source], env) == [link]
    assert link.is_symlink()
    assert contexts(target) == ["devenv-x"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert kubeconfig_merge.unmerge(tmp_path / "x", env) == [link]
    assert link.is_symlink()
    assert not target.exists()


def test_a_link_into_a_missing_directory_is_refused(tmp_path: Path, source: Path) -> None:
    link = tmp_path / "config"
    link.symlink_to(tmp_path / "absent" / "config")
    with pytest.raises(DevenvError, match="no such file") as caught:
        kubeconfig_merge.merge([source], env_of(tmp_path, link))
    assert caught.value.reason.id == "user_kubeconfig_unwritable"
    assert link.is_symlink()
    assert not (tmp_path / "config.lock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can work for another user")
@pytest.mark.parametrize("listed", [False, True])
def test_root_creates_files_for_the_owner_of_the_home_directory(tmp_path: Path, source: Path, listed: bool) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 1000, 1001)
    path = home / ".kube" / "sub" / "mine" if listed else home / ".kube" / "config"
    env = {"HOME": str(home)} | ({"KUBECONFIG": str(path)} if listed else {})
    umask = os.umask(0)
    try:
        kubeconfig_merge.merge([source], env)
    finally:
        os.umask(umask)
    for created in (path, *path.parents):
        if created == home:
            break
        assert (created.stat().st_uid, created.stat().st_gid) == (1000, 1001), created
        assert created.stat().st_mode & 0o777 == (0o600 if created == path else 0o755)
    assert kubeconfig_merge.unmerge(tmp_path / "x", env) == [path]
    assert list(home.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can work for another user")
def test_a_new_file_outside_the_home_directory_belongs_to_the_owner_of_its_directory(
    tmp_path: Path, source: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, 1000, 1001)
    kubeconfig_merge.merge([source], {"HOME": str(tmp_path / "home"), "KUBECONFIG": str(folder / "config")})
    assert ((folder / "config").stat().st_uid, (folder / "config").stat().st_gid) == (1000, 1001)


def test_a_file_that_kubectl_wrote_is_restored_byte_by_byte(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    text = (
        "apiVersion: v1\nclusters:\n- cluster:\n    insecure-skip-tls-verify: true\n    server: https://other\n"
        "  name: other\ncontexts:\n- context:\n    cluster: other\n    user: other\n  name: other\n"
        'current-context: ""\n'
        'kind: Config\npreferences: {}\nusers:\n- name: other\n  user:\n    token: 012345\n    username: "022"\n'
    )
    path.write_text(text)
    env = env_of(tmp_path, path)
    kubeconfig_merge.merge([source], env)
    assert "token: 012345\n" in path.read_text()
    kubeconfig_merge.unmerge(tmp_path / "x", env)
    assert path.read_text() == text


def test_a_file_of_kubectl_without_users_is_restored_byte_by_byte(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    text = (
        'apiVersion: v1\nclusters: null\ncontexts:\n- context:\n    cluster: work\n    user: ""\n  name: work\n'
        "current-context: work\nkind: Config\npreferences: {}\nusers: null\n"
    )
    path.write_text(text)
    env = env_of(tmp_path, path)
    kubeconfig_merge.merge([source], env, switch_to="devenv-x")
    kubeconfig_merge.unmerge(tmp_path / "x", env)
    assert path.read_text() == text


def test_a_failed_write_restores_the_file(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config"
    path.write_text(before := config("other"))
    real = os.fsync

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DevenvError, match="no space left") as caught:
        kubeconfig_merge.merge([source], env_of(tmp_path, path))
    assert caught.value.reason.id == "user_kubeconfig_unwritable"
    assert path.read_text() == before
    path.unlink()
    with pytest.raises(DevenvError, match="no space left"):
        kubeconfig_merge.merge([source], env_of(tmp_path, path))
    assert not path.exists()
    assert not (tmp_path / "config.lock").exists()


def read_only(tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run Python with ``tmp_path``/disk read-only, in a mount namespace."""
    disk = tmp_path / "disk"
    mount = f'mount --bind {disk} {disk} && mount -o remount,ro,bind {disk} && exec {sys.executable} -c "$1"'
    return subprocess.run(["unshare", "--mount", "sh", "-c", mount, "sh", script], capture_output=True, text=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("exists", [True, False])
def test_a_read_only_filesystem_is_refused_by_name(tmp_path: Path, source: Path, exists: bool) -> None:
    path = tmp_path / "disk" / "sub" / "config"
    path.parent.parent.mkdir()
    if exists:
        path.parent.mkdir()
        path.write_text(config("other"))
    module = kubeconfig_merge.__name__
    script = (
        f"import pathlib, sys\nsys.path[:0] = {sys.path!r}\nfrom {module} import merge\n"
        f"try:\n    merge([pathlib.Path({str(source)!r})], {env_of(tmp_path, path)!r})\n"
        "except Exception as error:\n    print(error.reason.id, error.where)\n"
    )
    done = read_only(tmp_path, script)
    assert done.stdout == f"user_kubeconfig_unwritable {path}\n", done.stderr
    assert path.exists() == exists
    assert not exists or contexts(path) == ["other"]


# --- several clusters, the current context ---------------------------------------------------------------------------


@pytest.fixture
def teams(tmp_path: Path) -> list[Path]:
    paths = []
    for team in ("red", "blue"):
        path = tmp_path / "x" / "clusters" / team / "kubeconfig"
        path.parent.mkdir(parents=True)
        path.write_text(config(f"devenv-x-{team}", current=f"devenv-x-{team}"))
        paths.append(path)
    return paths


def test_all_clusters_are_merged_and_removed_and_those_of_a_similar_name_stay(
    tmp_path: Path, teams: list[Path]
) -> None:
    path = tmp_path / "config"
    path.write_text(config("other", "devenv-x-1", current="other"))
    env = env_of(tmp_path, path)
    similar = tmp_path / "x-red2" / "clusters" / "main" / "kubeconfig"
    similar.parent.mkdir(parents=True)
    similar.write_text(config("devenv-x-red2"))
    kubeconfig_merge.merge([similar], env)
    kubeconfig_merge.merge(teams, env)
    assert contexts(path) == ["other", "devenv-x-1", "devenv-x-red2", "devenv-x-red", "devenv-x-blue"]
    assert kubeconfig_merge.merge(teams, env) == []
    kubeconfig_merge.unmerge(tmp_path / "x", env)
    document = yaml.safe_load(path.read_text())
    for kind in ("contexts", "clusters", "users"):
        assert [entry["name"] for entry in document[kind]] == ["other", "devenv-x-1", "devenv-x-red2"]
    assert document["current-context"] == "other"


def test_clusters_are_removed_without_the_state_directory(tmp_path: Path, teams: list[Path]) -> None:
    path = tmp_path / "config"
    path.write_text(config("other"))
    kubeconfig_merge.merge(teams, env_of(tmp_path, path))
    shutil.rmtree(tmp_path / "x")
    kubeconfig_merge.unmerge(tmp_path / "x", env_of(tmp_path, path))
    assert contexts(path) == ["other"]


def test_a_switched_context_is_switched_back(tmp_path: Path, teams: list[Path]) -> None:
    path = tmp_path / "config"
    path.write_text(config("other", current="other"))
    env = env_of(tmp_path, path)
    kubeconfig_merge.merge(teams, env, switch_to="devenv-x-blue")
    assert yaml.safe_load(path.read_text())["current-context"] == "devenv-x-blue"
    assert kubeconfig_merge.merge(teams, env, switch_to="devenv-x-blue") == []
    assert kubeconfig_merge.merge(teams, env) == []
    kubeconfig_merge.unmerge(tmp_path / "x", env)
    assert yaml.safe_load(path.read_text())["current-context"] == "other"


def test_a_switched_context_goes_to_the_first_file(tmp_path: Path, source: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(config("other"))
    second.write_text(config("devenv-x", current="devenv-x"))
    kubeconfig_merge.merge([source], env_of(tmp_path, first, second), switch_to="devenv-x")
    assert yaml.safe_load(second.read_text())["current-context"] == "devenv-x"


def test_a_renamed_context_is_removed(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "config"
    path.write_text(config("other"))
    env = env_of(tmp_path, path)
    kubeconfig_merge.merge([source], env)
    document = yaml.safe_load(path.read_text())
    document["contexts"][1]["name"] = document["current-context"] = "mine"
    path.write_text(yaml.safe_dump(document))
    kubeconfig_merge.unmerge(tmp_path / "x", env)
    assert contexts(path) == ["other"]
    assert yaml.safe_load(path.read_text())["current-context"] == ""


def test_locks_are_taken_in_kubectls_order(tmp_path: Path, source: Path) -> None:
    """kubectl sorts the files, so two programs that list the same files never wait for each other."""
    a, b = tmp_path / "a", tmp_path / "b"
    (tmp_path / "a.lock").touch()
    merging = threading.Thread(target=kubeconfig_merge.merge, args=([source], env_of(tmp_path, b, a)))
    merging.start()
    time.sleep(0.3)
    assert not (tmp_path / "b.lock").exists()
    (tmp_path / "a.lock").unlink()
    merging.join()
    assert contexts(a) == ["devenv-x"]


def test_check_changes_nothing(tmp_path: Path, source: Path) -> None:
    path = tmp_path / ".kube" / "config"
    assert kubeconfig_merge.merge([source], {"HOME": str(tmp_path)}, check=True) == [path]
    assert not path.parent.exists()
    assert not source.with_name("merged.json").exists()


@pytest.mark.parametrize("hard", [True, False])
def test_a_file_that_is_listed_twice_is_changed_once(tmp_path: Path, source: Path, hard: bool) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(config("devenv-x", current="other"))
    if hard:
        os.link(first, second)
    else:
        second.symlink_to(first)
    assert kubeconfig_merge.merge([source], env_of(tmp_path, second, first), switch_to="devenv-x") == [second]
    assert yaml.safe_load(first.read_text())["current-context"] == "devenv-x"


def test_down_ignores_an_unreadable_file_that_nothing_was_merged_into(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, own = tmp_path / "other", tmp_path / "own"
    other.write_text(config("devenv-x"))
    own.write_text(config("work"))
    kubeconfig_merge.merge([source], env_of(tmp_path, own))
    real = Path.read_text

    def read_text(path: Path, *args: Any, **options: Any) -> str:
        if path == other:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert kubeconfig_merge.unmerge(tmp_path / "x", env_of(tmp_path, other)) == [own]
