"""JUnit report of a run's stages: one test suite with one test case per stage.

JUnit has no standard; this is the subset on which Jenkins, GitLab and GitHub Actions agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

# Characters that XML 1.0 cannot represent, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS = {"failed": "failure", "error": "error", "skipped": "skipped"}


@dataclass(frozen=True)
class Case:
    """A stage. ``result`` is passed, failed, error (interrupted, or a bug) or skipped (not reached)."""

    name: str
    seconds: float
    result: str
    kind: str = ""
    message: str = ""
    text: str = ""


def render(suite: str, classname: str, began: str, cases: Sequence[Case]) -> str:
    """Return the document; ``began`` is local or UTC time in ISO 8601."""
    results = [case.result for case in cases]
    counts = {"failures": "failed", "errors": "error", "skipped": "skipped"}
    attributes = {"tests": str(len(cases))}
    attributes |= {attribute: str(results.count(result)) for attribute, result in counts.items()}
    attributes["time"] = f"{sum(case.seconds for case in cases):.3f}"
    root = ElementTree.Element("testsuite", {"name": _clean(suite), "timestamp": began, **attributes})
    for case in cases:
        element = ElementTree.SubElement(
            root, "testcase", classname=_clean(classname), name=_clean(case.name), time=f"{case.seconds:.3f}"
        )
        if case.result in _ELEMENTS:
            inner = ElementTree.SubElement(element, _ELEMENTS[case.result], message=_clean(case.message))
            if case.kind:
                inner.set("type", _clean(case.kind))
            inner.text = _clean(case.text) or None
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
