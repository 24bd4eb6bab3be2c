"""Providers are data and objects: their names stand in their own files alone, so that a new one touches no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import provider_traits

ROOT = Path(__file__).resolve().parents[2]
# Planned ones count, too: they must not come in by name.
NAMES = {*provider_traits.names(), "baremetal"}
# "existing" is a word of English: as an identifier it means no provider.
IDENTIFIERS = NAMES - {"existing"}
OWN = re.compile(
    r"plugins/plugin_utils/providers/|plugins/module_utils/(?:NAMES)/|plugins/(action|modules)/(?:NAMES)_\w+\.py|configs/"
    r"|roles/(provider_(?:NAMES)|node_image)/".replace("NAMES", "|".join(sorted(NAMES)))
)
PYTHON = sorted(path for top in ("plugins", "wrapper/src") for path in (ROOT / top).rglob("*.py") if path.is_file())
TASKS = sorted(path for top in ("playbooks", "roles", "inventories/profile") for path in (ROOT / top).rglob("*.yml"))


def own(path: Path) -> bool:
    return OWN.match(path.relative_to(ROOT).as_posix()) is not None


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def names_one(text: str) -> bool:
    """Whether a name, a path or an argument has a provider's name in it. Prose (text with a blank) may."""
    parts = [] if re.search(r"\s", text.strip()) else re.split(r"[^a-z0-9_]+", text.lower())
    return any(part in NAMES or IDENTIFIERS & set(part.split("_")) for part in parts)


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every text and identifier of a module that names a provider, with its line."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            if names_one(node.value):
                yield node.lineno, node.value
        elif isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                name = ".".join(filter(None, (getattr(node, "module", None), alias.name)))
                if names_one(name.replace("existing", "")) or ".providers.existing" in name:
                    yield node.lineno, name
        else:
            for field in ("id", "attr", "name", "arg"):
                name = getattr(node, field, None)
                if isinstance(name, str) and not isinstance(node, ast.alias) and set(name.split("_")) & IDENTIFIERS:
                    yield getattr(node, "lineno", 0), name


def texts(value: object) -> Iterator[str]:
    """Every key and value of a YAML document that is a text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(key)
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def test_there_is_something_to_look_at() -> None:
    assert len(NAMES) > 3
    assert len(PYTHON) > 200
    assert len([path for path in TASKS if not own(path)]) > 50


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ('if provider == "podman": pass', ["podman"]),
        ('run(["podman", "ps"])', ["podman"]),
        ("from x.providers.existing import hosts", ["x.providers.existing.hosts"]),
        ("from x.providers import libvirt as y", ["x.providers.libvirt"]),
        ("from x.allocators import existing", []),
        ("libvirt_nodes = 1", ["libvirt_nodes"]),
        ('reason = "podman_failed"', ["podman_failed"]),
        ('path = f"podman/{name}"', ["podman/"]),
        ("def baremetal(): pass", ["baremetal"]),
        ("existing = 1", []),
        ('"""Like podman."""', []),
        ('raise E("neither is podman")', []),
    ],
)
def test_names_are_found(code: str, seen: list[str]) -> None:
    assert [name for _line, name in literals(ast.parse(code))] == seen


def test_no_code_names_a_provider() -> None:
    found = [
        f"{shown(path)}:{line}: {name}"
        for path in PYTHON
        if not own(path)
        for line, name in literals(ast.parse(path.read_text()))
    ]
    assert found == []


def test_no_task_names_a_provider() -> None:
    found = [
        f"{shown(path)}: {text}"
        for path in TASKS
        if not own(path)
        for text in texts(yaml.safe_load(path.read_text()))
        if set(re.split(r"[^a-z0-9]+", text)) & IDENTIFIERS or "provider_existing" in text
    ]
    assert found == []
