"""The generators of pages, and that every page is up to date."""

from __future__ import annotations

from pathlib import Path

import generated
import page_parts
import pytest
import reference_docs
from ansible_collections.devenv.lab.plugins.plugin_utils.core.reasons import Reason

BEGIN, END = "<!-- x:begin -->", "<!-- x:end -->"
SPEC = {
    "short_description": "Does x",
    "options": {
        "x_list": {"type": "list", "elements": "str", "default": ["a", "b|c"], "description": ["One.", "Two\n lines."]},
        "x_need": {"required": True, "description": "Needed."},
        "x_free": {"type": "path", "description": "May be left out."},
        "x_word": {"type": "str", "default": "", "choices": ["", "on"], "description": "Word."},
        "x_map": {"type": "dict", "default": {}, "description": "Map."},
        "x_truth": {"type": "bool", "default": True, "description": "Truth."},
    },
}


def test_a_single_entry_point_has_one_table() -> None:
    assert reference_docs.role_table({"main": SPEC}) == [
        "| variable | type | default | meaning |",
        "| --- | --- | --- | --- |",
        "| `x_list` | list of str | `[a, b\\|c]` | One. Two lines. |",
        "| `x_need` | str | **required** | Needed. |",
        "| `x_free` | path |  | May be left out. |",
        "| `x_word` | str | `''` | Word. One of ``, `on`. |",
        "| `x_map` | dict | `{}` | Map. |",
        "| `x_truth` | bool | `true` | Truth. |",
    ]


def test_several_entry_points_list_the_users_of_a_variable() -> None:
    text = reference_docs.role_table(
        {
            "create": {
                "short_description": "Makes",
                "options": {"x_a": {"description": "A."}, "x_b": {"description": "B."}},
            },
            "destroy": {"short_description": "Ends", "options": {"x_a": {"description": "A."}}},
        }
    )
    assert "| `destroy` | Ends |" in text
    assert "| `x_a` | str |  | A. |" in text
    assert "| `x_b` | str |  | B. (`create`) |" in text


def test_a_role_can_have_no_variables() -> None:
    assert reference_docs.role_table({"main": {"short_description": "x"}}) == ["No variables of its own."]


def test_only_the_text_between_the_markers_changes() -> None:
    page = page_parts.filled(f"# x\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n", ["new"], "x")
    assert page == f"# x\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    assert page_parts.filled(page, ["new"], "x") == page


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}" * 2])
def test_wrong_markers_are_refused(text: str) -> None:
    with pytest.raises(page_parts.BadPage):
        page_parts.filled(text, ["new"], "x")


def test_reasons_are_sorted_and_escaped() -> None:
    rows = {
        r.id: r
        for r in (Reason("b", 9, "B|b.", "Do\nb."), Reason("a", 9, "A.", "Do a."), Reason("c", 2, "C.", "Do c."))
    }
    lines = reference_docs.reasons_page(rows).splitlines()
    assert lines[-3:] == ["| `c` | 2 | C. | Do c. |", "| `a` | 9 | A. | Do a. |", "| `b` | 9 | B\\|b. | Do b. |"]


def test_exit_codes_name_their_stages() -> None:
    page = reference_docs.exits_page({0: "done", 6: "labels or apps"}, {"labels": 6, "apps": 6})
    assert page.splitlines()[-2:] == ["| 0 | done |  |", "| 6 | labels or apps | `labels`, `apps` |"]


def test_troubleshooting_has_first_causes_in_order_and_failures_by_exit_code() -> None:
    rows = [
        {"id": name, "meaning": f"{name} is | full", "advice": "Free it.", "patterns": [{"line": "a|b"}, {"line": "c"}]}
        for name in ("disk", "cup")
    ]
    failures = {"full": Reason("full", 3, "No room.", "Free it.")}
    lines = reference_docs.troubleshooting_page(rows, failures, {0: "done", 3: "the nodes"}).splitlines()
    start = lines.index("| disk is \\| full (`disk`) | Free it. | `a\\|b` |")
    assert lines[start + 1] == "| cup is \\| full (`cup`) | Free it. | `a\\|b` |"
    assert lines[-5] == "### Exit code 3: the nodes"
    assert lines[-1] == "| No room. | Free it. | `full` |"


def test_outdated_pages_are_written_or_only_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "docs" / "page.md"
    assert generated.write({page: "text\n"}, tmp_path, check=True) == [page]
    assert not page.exists()
    assert generated.write({page: "text\n"}, tmp_path, check=False) == [page]
    assert page.read_text() == "text\n"
    assert generated.write({page: "text\n"}, tmp_path, check=True) == []
    assert capsys.readouterr().out.splitlines() == ["docs/page.md: outdated, run make docs", "docs/page.md: written"]


def test_every_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert generated.main(["--check"]) == 0
    assert capsys.readouterr().out == ""
