"""Image stores, and the names of node images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import image_store
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
def test_the_image_is_named_by_what_goes_into_it(tmp_path: Path, changes: dict[str, Any], same: bool) -> None:
    before = node_image.image_reference(_recipe(tmp_path), "d" * 64)
    after = node_image.image_reference(_recipe(tmp_path, **changes), "d" * 64)
    assert (before == after) is same
    assert node_image.image_reference(_recipe(tmp_path, **changes), "e" * 64) != after


def test_a_node_gets_links_and_its_own_databases(tmp_path: Path) -> None:
    store, target = tmp_path / "store", tmp_path / "node"
    for name in (*image_store.WRITTEN_IN_PLACE, "blob"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text("data")
    assert image_store.copy(store, target)
    assert (target / "blob").stat().st_ino == (store / "blob").stat().st_ino
    for name in image_store.WRITTEN_IN_PLACE:
        assert (target / name).stat().st_ino != (store / name).stat().st_ino
        assert (target / name).read_text() == "data"
