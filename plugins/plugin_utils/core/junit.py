"""JUnit of a run's stages, in the form that continuous integration systems read (one test suite, one test case a
stage).

The format has no standard of its own; this is the part of it that Jenkins, GitLab and GitHub actions agree on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

# Characters that XML 1.0 cannot hold, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """A stage: ``result`` is passed, failed, error (interrupted, or a bug) or skipped (not reached)."""

    name: str
    seconds: float
    result: str
    kind: str = ""
    message: str = ""
    text: str = ""


_ELEMENTS = {"failed": "failure", "error": "error", "skipped": "skipped"}


def render(suite: str, classname: str, began: str, cases: Sequence[Case]) -> str:
    """The document; ``began`` is local or UTC time in ISO 8601."""
    root = ElementTree.Element(
        "testsuite",
        name=_clean(suite),
        timestamp=began,
        tests=str(len(cases)),
        failures=str(_count(cases, "failed")),
        errors=str(_count(cases, "error")),
        skipped=str(_count(cases, "skipped")),
        time=f"{sum(case.seconds for case in cases):.3f}",
    )
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


def _count(cases: Sequence[Case], result: str) -> int:
    return sum(case.result == result for case in cases)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
