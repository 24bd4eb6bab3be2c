"""Image stores, builds that happen once, and the names of node images."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import image_store, node_recipe
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.node_recipe import Recipe
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import image as node_image


def _recipe(tmp_path: Path, **changes: Any) -> Recipe:
    script = tmp_path / "init"
    script.write_text(changes.pop("content", "a"))
    base: dict[str, Any] = {
        "suite": "bookworm",
        "mirror": "",
        "packages": ["a", "b"],
        "masked": ["x"],
        "files": {"/init": script},
    }
    return Recipe(**{**base, **changes})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"packages": ["b", "a"]}, True),
        ({"mirror": "elsewhere"}, True),
        ({"packages": ["a"]}, False),
        ({"masked": []}, False),
        ({"suite": "trixie"}, False),
        ({"content": "b"}, False),
    ],
)
def test_the_name_of_the_image_follows_from_its_inputs(tmp_path: Path, changes: dict[str, Any], same: bool) -> None:
    before = node_image.image_reference(_recipe(tmp_path), "d" * 64)
    after = node_image.image_reference(_recipe(tmp_path, **changes), "d" * 64)
    assert (before == after) is same
    assert node_image.image_reference(_recipe(tmp_path, **changes), "e" * 64) != after


def test_files_of_a_node_can_be_in_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / "Jürgen's lab"
    folder.mkdir()
    hooks = [word for word in node_recipe.mmdebstrap(_recipe(folder), tmp_path / "root.tar") if "=upload " in word]
    # mmdebstrap splits the words of this hook as a shell does.
    assert [shlex.split(hook.partition("=")[2]) for hook in hooks] == [["upload", str(folder / "init"), "/init"]]


def test_a_copy_keeps_the_mode_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("another filesystem")

    (tmp_path / "program").write_text("x")
    (tmp_path / "program").chmod(0o755)
    monkeypatch.setattr(image_store.os, "link", refuse)
    before = os.umask(0o077)
    try:
        image_store.link_or_copy(tmp_path / "program", tmp_path / "copy")
    finally:
        os.umask(before)
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o755


def test_a_node_gets_links_and_databases_of_its_own(tmp_path: Path) -> None:
    store, target = tmp_path / "store", tmp_path / "node"
    for name in (*image_store.WRITTEN_IN_PLACE, "blob"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text("data")
    assert image_store.copy(store, target)
    assert (target / "blob").stat().st_ino == (store / "blob").stat().st_ino
    for name in image_store.WRITTEN_IN_PLACE:
        assert (target / name).stat().st_ino != (store / name).stat().st_ino
        assert (target / name).read_text() == "data"


def test_a_build_happens_once(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "stores" / "a"
    built: list[str] = []

    def build(path: Path) -> None:
        built.append(path.name)
        path.write_text("data")

    (target.parent / ".building-killed").mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _number: image_store.build_once(target, build), range(4)))
    assert (sorted(results), built, target.read_text()) == ([False, False, False, True], ["a"], "data")
    assert [entry.name for entry in target.parent.iterdir()] == ["a"]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "stores" / "a"

    def fail(path: Path) -> None:
        path.mkdir()
        raise LookupError

    with pytest.raises(LookupError):
        image_store.build_once(target, fail)
    assert list(target.parent.iterdir()) == []
    assert image_store.build_once(target, Path.mkdir)


def test_an_extended_store_shares_the_bundles_images(tmp_path: Path) -> None:
    filled: list[list[str]] = []

    def fill(store: Path, images: Sequence[Path], name: str) -> None:
        filled.append([image.name for image in images])
        for file in (*image_store.WRITTEN_IN_PLACE, *(image.name for image in images)):
            (store / file).parent.mkdir(parents=True, exist_ok=True)
            (store / file).write_text(name)

    digest, archive = "d" * 64, Path("/s/snapshot.tar")
    assert image_store.ensure(digest, [Path("/b/pause.tar")], tmp_path, fill, lambda text: None)
    assert not image_store.ensure(digest, [Path("/b/pause.tar")], tmp_path, fill, lambda text: None)
    assert image_store.extend(digest, archive, tmp_path, fill, lambda text: None)
    store, extended = image_store.path(tmp_path, digest), image_store.extended_path(tmp_path, digest, archive)
    assert filled == [["pause.tar"], ["snapshot.tar"]]
    assert (extended / "pause.tar").stat().st_ino == (store / "pause.tar").stat().st_ino
    assert not (store / "snapshot.tar").exists()
