"""The page of profiles says what the data says, and the examples of the guide resolve."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import page_parts
import profile_docs
import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import catalogue, engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "profiles.md").read_text()
EXAMPLES = [
    text for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL) if re.search(r"^(extends|nodes):", text, re.M)
]
MARKS: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "tested-profiles.yml").read_text())

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


def test_keys_of_the_items_of_a_list() -> None:
    schema = {
        "properties": {"checks": {"type": "array", "description": "C.", "items": {"$ref": "#/$defs/check"}}},
        "$defs": {"check": {"properties": {"name": {"type": "string", "description": "N."}}}},
    }
    assert profile_docs.keys_page(schema, {"checks": {"[N]": {"name": "x"}}})[2:] == [
        "| `checks` | list |  |  | C. |",
        "| `checks[N].name` | text |  | `x` | N. |",
    ]


def test_list_of_what_is_not_built() -> None:
    assert profile_docs.not_built(SCHEMA) == ["- `colour`: `green`", "- `later`"]


def test_page_has_every_name() -> None:
    page = profile_docs.page(paths.CONFIGS)
    for name in (*profile_names.canonical(), *catalogue.aliases()):
        assert f"| `{name}` |" in page
    assert (ROOT / "docs" / "reference" / "profiles.md").read_text() == page


# --- the matrix ------------------------------------------------------------------------------------------------------


def row(topology: str, stack: str, addressing: str) -> dict[str, str]:
    return {
        "profile": f"{topology}-{stack}-{addressing}",
        "topology": topology,
        "stack": stack,
        "addressing": addressing,
    }


def test_matrix_marks_what_is_tested_and_says_why_the_rest_is_not() -> None:
    rows = [row(one, stack, way) for one in ("a", "b") for stack in ("v4", "v6") for way in ("static", "dhcp")]
    marks = {
        "tested": [
            {"profile": "a-v4-static", "test": "x.py::y", "target": "test"},
            {"profile": "b-v4-dhcp", "test": "x.py::z", "target": "nightly"},
        ],
        "others": {"test": "m.py::all", "target": "matrix"},
        "untested": [{"topology": "b", "stack": "v6", "why": "Never."}],
    }
    lines = profile_docs.matrix(rows, marks)
    assert lines[:4] == [
        "| topology | v4 static | v4 dhcp | v6 static | v6 dhcp |",
        "| --- | --- | --- | --- | --- |",
        "| `a` | `make test` | `make matrix` | `make matrix` | `make matrix` |",
        "| `b` | `make matrix` | `make nightly` | 1 | 1 |",
    ]
    assert [line for line in lines if re.match(r"[0-9]\. ", line)] == ["1. Never."]
    assert lines[-3:] == [
        "| `a-v4-static` | `x.py::y` |",
        "| `b-v4-dhcp` | `x.py::z` |",
        "| each other one | `m.py::all` |",
    ]
    assert profile_docs.of_the_matrix(rows, marks) == ["a-v4-dhcp", "a-v6-static", "a-v6-dhcp", "b-v4-static"]


def test_every_name_is_made_by_one_test_or_has_a_reason() -> None:
    made = [*(mark["profile"] for mark in MARKS["tested"]), *profile_docs.of_the_matrix(catalogue.describe(), MARKS)]
    for row in catalogue.describe():
        assert made.count(row["profile"]) == (0 if profile_docs.untested(row, MARKS["untested"]) else 1)
    file, _, function = MARKS["others"]["test"].partition("::")
    tree = ast.parse((ROOT / "tests" / "matrix" / file).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert f"\n{MARKS['others']['target']}: " in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("text", ["", "<!-- matrix:begin -->", "<!-- matrix:end --><!-- matrix:begin -->"])
def test_a_guide_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(page_parts.BadPage, match="matrix:begin"):
        profile_docs.guide(text, paths.CONFIGS, MARKS)


@pytest.mark.parametrize("mark", MARKS["tested"], ids=lambda mark: mark["profile"])
def test_what_the_marks_name_is_there(mark: dict[str, str]) -> None:
    assert set(mark) == {"profile", "test", "target"}
    assert mark["target"] in ("test", "nightly")
    file, _, function = mark["test"].partition("::")
    source = (ROOT / "tests" / "e2e" / file).read_text()
    tree = ast.parse(source)
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    short = [alias for alias, name in catalogue.aliases().items() if name == mark["profile"]]
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = {mark["profile"], *short}
    assert any(text in named or text.removeprefix("profile=") in named for text in texts), "the file makes it"


def test_the_marks_are_of_profiles_that_are() -> None:
    marked = [mark["profile"] for mark in MARKS["tested"]]
    assert len(marked) == len(set(marked))
    assert set(marked) <= set(profile_names.canonical())
    for rule in MARKS["untested"]:
        assert set(rule) - {"why"} <= set(profile_docs.AXES)
        covered = [one for one in catalogue.describe() if all(one[key] == rule[key] for key in rule if key != "why")]
        assert covered, "a rule for nothing"
        assert not {one["profile"] for one in covered} <= set(marked), "a rule that says nothing any more"


def test_the_guide_is_what_the_data_says() -> None:
    assert profile_docs.guide(GUIDE, paths.CONFIGS, MARKS) == GUIDE


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_of_the_guide_resolve(number: int, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(EXAMPLES[number])
    resolved = resolve(str(path))
    wanted = yaml.safe_load(EXAMPLES[number])
    engines.require(resolved)
    assert set(wanted.get("nodes", {})) <= {node["name"] for node in resolved["nodes"]}


def test_the_guide_has_examples() -> None:
    assert len(EXAMPLES) >= 4
