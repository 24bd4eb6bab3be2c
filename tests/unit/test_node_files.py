"""Files of a node are written atomically."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node import files


@pytest.mark.parametrize("content", ["text", "\udcff surrogate", b"\xff\x00"])
def test_a_file_is_private_by_default(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "new" / "file"
    files.write(str(path), content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else os.fsencode(content))
    assert path.stat().st_mode & 0o777 == 0o600
    files.write(str(path), "more", 0o644, durable=True)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("more", 0o644)
    assert os.listdir(path.parent) == ["file"]


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(str(path), "old")
    with path.open() as reader:
        files.write(str(path), "new")
        assert reader.read() == "old"


def test_the_part_of_a_killed_write_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".file.devenv").write_text("a long rest of a killed write")
    files.write(str(tmp_path / "file"), "x")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "x"}


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("theirs")
    (tmp_path / ".file.devenv").symlink_to("victim")
    with pytest.raises(OSError, match="symbolic"):
        files.write(str(tmp_path / "file"), "x")
    assert (tmp_path / "victim").read_text() == "theirs"


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write(str(tmp_path / "folder"), "x")
    assert os.listdir(tmp_path) == ["folder"]


def test_an_unchanged_file_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert files.write_if_changed(str(path), "x")
    inode = path.stat().st_ino
    assert not files.write_if_changed(str(path), "x")
    assert path.stat().st_ino == inode
    assert files.write_if_changed(str(path), "y")


def test_a_program_is_installed_atomically(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"\x7fELF" * 100_000)
    files.install(str(tmp_path / "source"), str(tmp_path / "bin" / "program"))
    assert files.sha256(str(tmp_path / "bin" / "program")) == files.sha256(str(tmp_path / "source"))
    assert (tmp_path / "bin" / "program").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("text", "content"), [('{"a": 1}', {"a": 1}), ("[1]", {}), ("{half", {}), ("", {}), (None, {})]
)
def test_a_damaged_record_is_empty(tmp_path: Path, text: str | None, content: dict[str, int]) -> None:
    if text is not None:
        (tmp_path / "record").write_text(text)
    assert files.read_json(str(tmp_path / "record")) == content
    files.write_json(str(tmp_path / "record"), {"b": 2})
    assert files.read_json(str(tmp_path / "record")) == {"b": 2}


def test_a_missing_file_is_empty_and_has_no_digest() -> None:
    assert (files.read_text("/no/such/file"), files.digest("/no/such/file")) == ("", "")
