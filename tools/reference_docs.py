"""The generated pages that follow from configs/reasons.yml, causes.yml and checks.yml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, reasons
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import causes
from page_parts import filled, page, table


def reasons_page(catalogue: Mapping[str, reasons.Reason]) -> str:
    """Markdown: every reason to fail with its exit code, meaning and advice, by exit code and id."""
    rows = sorted(catalogue.values(), key=lambda reason: (reason.exit, reason.id))
    return page(
        "Reasons to fail",
        "A failure names one of these ids: in the last lines on the screen, in `runs/<time>/failure.json` of the state",
        "folder and, with `--json`, in the last object. The ids stay.",
        "",
        *table(
            ("id", "exit", "what it means", "what to do"), ((f"`{r.id}`", r.exit, r.meaning, r.advice) for r in rows)
        ),
    )


def exits_page(meanings: Mapping[int, str], stages: Mapping[str, int]) -> str:
    """Markdown: every exit code, what it means, which stages end with it."""
    names = {code: ", ".join(f"`{stage}`" for stage, value in stages.items() if value == code) for code in meanings}
    rows = ((code, meaning, names[code]) for code, meaning in meanings.items())
    return page("Exit codes", *table(("code", "meaning", "stages"), rows))


def troubleshooting_page(catalogue: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: every first cause with what to do and a line of a log that shows it, in the catalogue's order."""
    return page(
        "Troubleshooting",
        "A failed run ends with what happened, what to do next, and the path of its log. The word in brackets is the",
        "id of a [reason](reference/reasons.md). What else helps:",
        "",
        "- `devenv doctor` checks this machine and prints the commands that put it right.",
        "- `devenv up` again continues a run that failed or was killed; `devenv down` removes the environment.",
        "- `devenv status`, `devenv logs NODE` and `devenv ssh NODE` show a node; `devenv validate` lists every check.",
        "- [Gather](gather.md) collects the logs of all nodes in one archive.",
        "",
        "## First causes",
        "",
        "When a cluster does not come up, devenv searches the logs of all nodes for these causes and names the first",
        "that it finds. Causes further up make those below them happen.",
        "",
        *table(
            ("cause", "what to do", "a line that shows it"),
            (
                (f"{row['meaning']} (`{row['id']}`)", row["advice"], f"`{row['patterns'][0]['line'].strip()}`")
                for row in catalogue
            ),
        ),
    )


def checks_table(checks: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Markdown lines: every check, whether only a full validation has it, and what it means that it passes."""
    rows = ((f"`{name}`", depth, text) for depth, meanings in checks.items() for name, text in meanings.items())
    return table(("check", "validation", "passes when"), rows)


def pages(root: Path) -> dict[Path, str]:
    """The pages as they should be, by path."""
    folder, guide = root / "docs" / "reference", root / "docs" / "validate.md"
    checks = checks_table(data.read(root / "configs" / "checks.yml"))
    return {
        guide: filled(guide.read_text(), checks, "checks"),
        folder / "reasons.md": reasons_page(reasons.catalogue()),
        root / "docs" / "troubleshooting.md": troubleshooting_page(data.read(causes.FILE)),
        folder / "exit-codes.md": exits_page(data.read(reasons.FILE)["exits"], reasons.stages()),
    }
