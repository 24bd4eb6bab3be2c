"""The pages about profiles follow the data, and the examples of the guide resolve."""

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


def test_keys_are_listed_with_type_values_and_default() -> None:
    assert profile_docs.keys_page(SCHEMA, {"colour": "red", "size": 3, "labels": {}})[2:] == [
        "| `colour` | text | `red`, `blue` | `red` | Its colour. |",
        "| `size` | number |  | `3` | Its size. |",
        "| `labels` | mapping |  |  | Labels. |",
        "| `labels.KEY` | text or null | a\\|b |  | One. |",
    ]


def test_keys_of_list_items_are_listed() -> None:
    schema = {
        "properties": {"checks": {"type": "array", "description": "C.", "items": {"$ref": "#/$defs/check"}}},
        "$defs": {"check": {"properties": {"name": {"type": "string", "description": "N."}}}},
    }
    assert profile_docs.keys_page(schema, {"checks": {"[N]": {"name": "x"}}})[2:] == [
        "| `checks` | list |  |  | C. |",
        "| `checks[N].name` | text |  | `x` | N. |",
    ]


def test_planned_keys_and_values_are_listed() -> None:
    assert profile_docs.not_built(SCHEMA) == ["- `colour`: `green`", "- `later`"]


def test_the_page_has_every_name() -> None:
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


def test_the_matrix_has_a_target_or_a_reason_for_every_profile() -> None:
    rows = [
        row(topology, stack, addressing)
        for topology in ("a", "b")
        for stack in ("v4", "v6")
        for addressing in ("static", "dhcp")
    ]
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
        "| all others | `m.py::all` |",
    ]
    assert profile_docs.of_the_matrix(rows, marks) == ["a-v4-dhcp", "a-v6-static", "a-v6-dhcp", "b-v4-static"]


def test_every_profile_is_created_by_one_test_or_has_a_reason() -> None:
    created = [*(mark["profile"] for mark in MARKS["tested"]), *profile_docs.of_the_matrix(catalogue.describe(), MARKS)]
    for row in catalogue.describe():
        assert created.count(row["profile"]) == (0 if profile_docs.untested(row, MARKS["untested"]) else 1)
    file, _, function = MARKS["others"]["test"].partition("::")
    tree = ast.parse((ROOT / "tests" / "matrix" / file).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert f"\n{MARKS['others']['target']}: " in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("text", ["", "<!-- matrix:begin -->", "<!-- matrix:end --><!-- matrix:begin -->"])
def test_a_guide_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(page_parts.BadPage, match="matrix:begin"):
        profile_docs.guide(text, paths.CONFIGS, MARKS)


@pytest.mark.parametrize("mark", MARKS["tested"], ids=lambda mark: mark["profile"])
def test_every_mark_names_an_existing_test(mark: dict[str, str]) -> None:
    assert set(mark) == {"profile", "test", "target"}
    assert mark["target"] in ("test", "nightly")
    file, _, function = mark["test"].partition("::")
    source = (ROOT / "tests" / "e2e" / file).read_text()
    tree = ast.parse(source)
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    short = [alias for alias, name in catalogue.aliases().items() if name == mark["profile"]]
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {mark["profile"], *short}
    assert any(text.removeprefix("profile=") in names for text in texts), "the file must create the profile"


def test_every_mark_is_about_an_existing_profile() -> None:
    marked = [mark["profile"] for mark in MARKS["tested"]]
    assert len(marked) == len(set(marked))
    assert set(marked) <= set(profile_names.canonical())
    for rule in MARKS["untested"]:
        assert set(rule) - {"why"} <= {"topology", "stack", "addressing"}
        rows = catalogue.describe()
        covered = [row["profile"] for row in rows if profile_docs.untested(row, [rule])]
        assert covered, "a rule without profiles"
        assert not set(covered) <= set(marked), "a rule that is obsolete"


def test_the_guide_is_up_to_date() -> None:
    assert profile_docs.guide(GUIDE, paths.CONFIGS, MARKS) == GUIDE


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_of_the_guide_resolve(number: int, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(EXAMPLES[number])
    resolved = resolve(str(path))
    example = yaml.safe_load(EXAMPLES[number])
    engines.require(resolved)
    assert set(example.get("nodes", {})) <= {node["name"] for node in resolved["nodes"]}


def test_the_guide_has_examples() -> None:
    assert len(EXAMPLES) >= 4
