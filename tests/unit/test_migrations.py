"""Versions of a profile's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import migrations
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve


def renamed(document: dict[str, Any]) -> dict[str, Any]:
    return {"family" if key == "stack" else key: value for key, value in document.items()}


def nested(document: dict[str, Any]) -> dict[str, Any]:
    return {"spec": document}


TABLE = {migrations.FIRST: dict, "v2": renamed, "v3": nested}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"stack": "ipv4"}, {"spec": {"family": "ipv4"}}),
        ({"apiVersion": migrations.FIRST, "stack": "ipv4"}, {"spec": {"family": "ipv4"}}),
        ({"apiVersion": "v2", "family": "ipv4"}, {"spec": {"family": "ipv4"}}),
        ({"apiVersion": "v3", "spec": {}}, {"spec": {}}),
    ],
)
def test_a_document_of_any_version_becomes_one_of_the_newest(document: Any, expected: Any) -> None:
    before = dict(document)
    assert migrations.migrate(document, "x", TABLE) == expected
    assert document == before


@pytest.mark.parametrize("version", ["v9", "", None, 1, ["v2"], {}])
def test_an_unknown_version_is_refused(version: Any) -> None:
    with pytest.raises(DevenvError) as caught:
        migrations.migrate({"apiVersion": version}, "x.yml", TABLE)
    assert (caught.value.reason.id, caught.value.exit_code) == ("profile_invalid", 2)
    assert str(caught.value).endswith("is not known; allowed: devenv.lab/v1, v2, v3")


def test_files_with_and_without_a_version(tmp_path: Path) -> None:
    (tmp_path / "old.yml").write_text("extends: aio\n")
    (tmp_path / "new.yml").write_text("apiVersion: devenv.lab/v1\nextends: ./old.yml\n")
    (tmp_path / "later.yml").write_text("apiVersion: devenv.lab/v7\nextends: aio\n")
    old, new = (resolve(str(tmp_path / name)) for name in ("old.yml", "new.yml"))
    assert {**old, "name": ""} == {**new, "name": ""}
    with pytest.raises(DevenvError, match=r"allowed: devenv\.lab/v1$") as caught:
        resolve(str(tmp_path / "later.yml"))
    assert "later.yml" in str(caught.value)


def test_an_override_of_the_version_is_rejected() -> None:
    with pytest.raises(DevenvError, match="apiVersion: cannot be overridden"):
        resolve("aio", overrides={"apiVersion": migrations.FIRST})


def test_the_schema_has_the_known_versions() -> None:
    schema = json.loads((paths.CONFIGS / "schema" / "profile.json").read_text())
    assert schema["properties"]["apiVersion"]["enum"] == list(migrations.VERSIONS)
