"""The page of profiles says what the data says, and the examples of the guide resolve."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import profile_docs
import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils import paths, profile

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "profiles.md").read_text()
EXAMPLES = [text for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL) if "extends:" in text]

SCHEMA: dict[str, Any] = {
    "properties": {
        "colour": {"type": "string", "enum": ["red", "blue"], "x-not-built": ["green"], "description": "Its colour."},
        "later": {"x-not-built": True, "description": "Later."},
        "size": {"$ref": "#/$defs/size", "description": "Its size."},
        "labels": {
            "type": "object",
            "description": "Labels.",
            "additionalProperties": {"type": ["string", "null"], "x-form": "a|b", "description": "One."},
        },
    },
    "$defs": {"size": {"type": "integer"}},
}


def test_table_of_keys() -> None:
    assert profile_docs.keys_page(SCHEMA, {"colour": "red", "size": 3, "labels": {}})[2:] == [
        "| `colour` | text | `red`, `blue` | `red` | Its colour. |",
        "| `size` | number |  | `3` | Its size. |",
        "| `labels` | mapping |  |  | Labels. |",
        "| `labels.KEY` | text or null | a\\|b |  | One. |",
    ]


def test_list_of_what_is_not_built() -> None:
    assert profile_docs.not_built(SCHEMA) == ["- `colour`: `green`", "- `later`"]


def test_page_has_every_name() -> None:
    page = profile_docs.page(paths.CONFIGS)
    for name in (*profile.names(), *profile.aliases()):
        assert f"| `{name}` |" in page
    assert (ROOT / "docs" / "reference" / "profiles.md").read_text() == page


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_of_the_guide_resolve(number: int, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(EXAMPLES[number])
    resolved = profile.resolve(str(path))
    wanted = yaml.safe_load(EXAMPLES[number])
    assert set(wanted.get("nodes", {})) <= {node["name"] for node in resolved["nodes"]}


def test_the_guide_has_examples() -> None:
    assert len(EXAMPLES) >= 2
