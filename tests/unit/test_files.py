from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.net import bracketed


@pytest.mark.parametrize("content", ["text", b"\xff\x00"])
def test_a_write_makes_a_private_file_and_reports_changes(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "new" / "file"
    assert files.write(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not files.write(path, content)
    assert files.write(path, content, 0o644)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("before", "after"), [(0o000, 0o022), (0o002, 0o022), (0o022, 0o022), (0o077, 0o077)])
def test_an_umask_is_only_tightened(before: int, after: int) -> None:
    original = os.umask(before)
    try:
        files.tighten_umask()
    finally:
        assert os.umask(original) == after


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="directory"):
        files.write(folder, "text")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("text", "kind", "content"),
    [
        ('{"a": 1}', dict, {"a": 1}),
        ("[1]", list, [1]),
        ("[1]", dict, None),
        ('{"a"', dict, None),
        ("", dict, None),
        (None, dict, None),
    ],
)
def test_a_json_file_is_of_the_expected_type_or_none(
    tmp_path: Path, text: str | None, kind: type[object], content: object
) -> None:
    if text is not None:
        (tmp_path / "file").write_text(text)
    assert files.read_json(tmp_path / "file", kind) == content


@pytest.mark.parametrize(
    ("address", "text"), [("fd00::1", "[fd00::1]"), ("192.0.2.1", "192.0.2.1"), ("host", "host"), ("", "")]
)
def test_an_ipv6_address_gets_brackets(address: str, text: str) -> None:
    assert bracketed(address) == text
