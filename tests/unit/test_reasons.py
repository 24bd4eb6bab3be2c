"""The catalogue of reasons fits its schema and the sources: every reason that is raised has an entry, every entry is
raised somewhere.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema
import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, errors, paths, reasons

ROOT = Path(__file__).resolve().parents[2]
# A parameter, field, function or key of one of these names holds a reason.
NAMES = {"reason", "otherwise", "devenv_reason"}


class Sources:
    """The reasons that Python sources name."""

    def __init__(self, files: dict[str, str]) -> None:
        self._trees = {name: ast.parse(text) for name, text in files.items()}
        self._own = {name: dict(_signatures(tree)) for name, tree in self._trees.items()}
        self._all: dict[str, set[int]] = defaultdict(set)
        for signatures in self._own.values():
            for name, places in signatures.items():
                self._all[name] |= places

    def raised(self) -> dict[str, str]:
        """Return the texts in the place of a reason, each with its location."""
        return {
            text: f"{name}:{node.lineno}"
            for name, tree in self._trees.items()
            for node in ast.walk(tree)
            for text in self._of(name, node)
            if isinstance(node, ast.expr | ast.stmt)
        }

    def texts(self) -> set[str]:
        """Return all texts, including the constant parts of f-strings."""
        nodes = [node for tree in self._trees.values() for node in ast.walk(tree)]
        return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}

    def patterns(self) -> list[str]:
        """Return a pattern for each f-string that ends in ``_failed``."""
        nodes = [node for tree in self._trees.values() for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        texts = [
            "".join(re.escape(v.value) if isinstance(v, ast.Constant) else "[a-z]+" for v in n.values) for n in nodes
        ]
        return [pattern for pattern in texts if pattern.endswith("_failed")]

    def _of(self, file: str, node: ast.AST) -> Iterator[str]:
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                places = self._own[file].get(name, self._all.get(name, set()))
                for place in places:
                    yield from _texts(node.args[place]) if place < len(node.args) else ()
                for keyword in node.keywords:
                    yield from _texts(keyword.value) if keyword.arg in NAMES else ()
            case ast.Dict():
                for key, value in zip(node.keys, node.values, strict=True):
                    yield from _texts(value) if isinstance(key, ast.Constant) and key.value in NAMES else ()
            case ast.Assign(targets=[ast.Name(id=name)]) if name.lower().strip("_") in NAMES:
                yield from _texts(node.value)
            case ast.FunctionDef(name=name) if name.strip("_") in NAMES:
                for inner in ast.walk(node):
                    yield from _texts(inner.value) if isinstance(inner, ast.Return) else ()


def _signatures(tree: ast.AST) -> Iterator[tuple[str, set[int]]]:
    """Yield names of functions and classes with the positions of arguments that are reasons."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
            yield node.name, {place for place, name in enumerate(names) if name in NAMES}
        elif isinstance(node, ast.ClassDef):
            fields = [s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
            inits = [s for s in node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"]
            names = [argument.arg for argument in inits[0].args.args[1:]] if inits else fields
            yield node.name, {place for place, name in enumerate(names) if name in NAMES}


def _texts(node: ast.AST | None) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)) if text:
            yield text
        case ast.IfExp():
            yield from (*_texts(node.body), *_texts(node.orelse))
        case ast.BoolOp():
            yield from (text for value in node.values for text in _texts(value))


@cache
def sources() -> Sources:
    files = [file for folder in ("plugins", "wrapper/src") for file in (ROOT / folder).rglob("*.py")]
    return Sources({str(file.relative_to(ROOT)): file.read_text() for file in files})


def named_in_yaml() -> set[str]:
    """Reasons that roles and playbooks compare with or give."""
    files = [file for folder in ("playbooks", "roles") for file in (ROOT / folder).rglob("*.y*ml")]
    lines = [line for file in files for line in file.read_text().splitlines() if "devenv_reason" in line]
    pattern = re.compile(r"[=!]= *['\"](\w+)['\"]|devenv_reason: *['\"]?([a-z_]+)\b")
    return {match.group(1) or match.group(2) for line in lines for match in pattern.finditer(line)}


def test_the_catalogue_fits_its_schema() -> None:
    schema = json.loads((paths.CONFIGS / "schema" / "reasons.json").read_text())
    document = data.read(reasons.FILE)
    # JSON has no numbers as keys.
    jsonschema.validate({**document, "exits": {str(code): text for code, text in document["exits"].items()}}, schema)
    assert {reason.exit for reason in reasons.catalogue().values()} <= document["exits"].keys()


def test_every_reason_that_is_raised_is_in_the_catalogue() -> None:
    raised = sources().raised()
    assert len(raised) > 120
    assert {text: where for text, where in raised.items() if text not in reasons.catalogue()} == {}
    assert named_in_yaml()
    assert named_in_yaml() <= reasons.catalogue().keys()


def test_every_reason_of_the_catalogue_is_used() -> None:
    used = sources().texts() | {f"{stage}_failed" for stage in reasons.stages()}
    unused = reasons.catalogue().keys() - used
    assert {name for name in unused if not any(re.fullmatch(p, name) for p in sources().patterns())} == set()


@pytest.mark.parametrize(
    "text",
    [
        'raise DevenvError("wrong", "message")',
        'raise errors.DevenvError(a or "wrong" if b else c, "message")',
        'module.fail_json(msg="message", devenv_reason="wrong")',
        'result = {"failed": True, "devenv_reason": "wrong"}',
        '_REASON = "wrong"',
        'def reason(lines): return "wrong"',
        'def stop(message, reason): pass\nstop("message", "wrong")',
        'class Rule:\n    pattern: str\n    reason: str\nRule("x", "wrong")',
    ],
)
def test_an_unknown_reason_would_be_found(text: str) -> None:
    base = "class DevenvError:\n    def __init__(self, reason, message): pass\n"
    assert Sources({"base.py": base, "new.py": text}).raised().keys() == {"wrong"}


def test_a_missing_bundle_has_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store, versions

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(errors.DevenvError) as raised:
        store.require(versions.known()[0])
    assert raised.value.reason.id == "bundle_missing"
    assert raised.value.exit_code == 12
    assert "devenv bundle build" in raised.value.advice


def test_an_unknown_reason_keeps_the_message() -> None:
    with pytest.raises(errors.UnknownReason, match="no reason 'mine', given for: the disk is on fire"):
        errors.DevenvError("mine", "the disk is on fire")
