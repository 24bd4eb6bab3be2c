"""Archives that are kept for nodes of later runs."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import kept_images


def keep(folder: Path, text: str, *names: str, move: bool = False) -> Path:
    archive = folder / f"{text}.tar"
    archive.write_text(text)
    kept_images.keep(folder, archive, dict.fromkeys(names, f"sha256:{text}"), {"alias": names[0]}, move=move)
    return archive


def test_archives_are_returned_in_the_order_in_which_they_were_kept(tmp_path: Path) -> None:
    assert kept_images.kept(tmp_path) == []
    own = keep(tmp_path, "first", "a:1", "b:1")
    moved = keep(tmp_path, "second", "c:1", move=True)
    own.write_text("changed by its owner")
    assert not moved.exists()
    first, second = kept_images.kept(tmp_path)
    assert (first.archive.read_text(), first.digests, first.aliases) == (
        "first", {"a:1": "sha256:first", "b:1": "sha256:first"}, {"alias": "a:1"},
    )  # fmt: skip
    assert second.archive.read_text() == "second"
    # The image of the same name replaces it, and is now the newest.
    for path in (tmp_path / kept_images.FOLDER).glob("*.json"):
        os.utime(path, (1, 1))
    keep(tmp_path, "third", "b:1", "a:1")
    assert [images.archive.read_text() for images in kept_images.kept(tmp_path)] == ["second", "third"]


def test_an_archive_without_its_description_is_not_used(tmp_path: Path) -> None:
    keep(tmp_path, "first", "a:1")
    (described,) = (tmp_path / kept_images.FOLDER).glob("*.json")
    described.write_text("{")
    assert kept_images.kept(tmp_path) == []
