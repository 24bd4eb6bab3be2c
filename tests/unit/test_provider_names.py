"""Names of providers are only in their own files, so that a new provider changes no other file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import provider_traits

ROOT = Path(__file__).resolve().parents[2]
# Planned providers count as well.
NAMES = {*provider_traits.names(), "baremetal"}
# "existing" is an English word: as an identifier it does not mean the provider.
IDENTIFIERS = NAMES - {"existing"}
PROVIDER_FILES = re.compile(
    r"plugins/plugin_utils/providers/|plugins/module_utils/(?:NAMES)/|plugins/(action|modules)/(?:NAMES)_\w+\.py|configs/"
    r"|roles/(provider_(?:NAMES)|node_image)/".replace("NAMES", "|".join(sorted(NAMES)))
)
PYTHON = sorted(path for top in ("plugins", "wrapper/src") for path in (ROOT / top).rglob("*.py") if path.is_file())
TASKS = sorted(path for top in ("playbooks", "roles", "inventories/profile") for path in (ROOT / top).rglob("*.yml"))


def is_of_a_provider(path: Path) -> bool:
    return PROVIDER_FILES.match(path.relative_to(ROOT).as_posix()) is not None


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def names_one(text: str) -> bool:
    """Return whether a name, a path or an argument contains a provider's name. Prose (text with a space) may."""
    parts = [] if re.search(r"\s", text.strip()) else re.split(r"[^a-z0-9_]+", text.lower())
    return any(part in NAMES or IDENTIFIERS & set(part.split("_")) for part in parts)


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every string and identifier of a module that names a provider, with its line."""
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
    """Yield every key and value of a YAML document that is a string."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(key)
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def test_the_checked_files_exist() -> None:
    assert len(NAMES) > 3
    assert len(PYTHON) > 200
    assert len([path for path in TASKS if not is_of_a_provider(path)]) > 50


@pytest.mark.parametrize(
    ("code", "names"),
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
def test_names_are_recognized(code: str, names: list[str]) -> None:
    assert [name for _line, name in literals(ast.parse(code))] == names


def test_no_code_names_a_provider() -> None:
    named = [
        f"{relative(path)}:{line}: {name}"
        for path in PYTHON
        if not is_of_a_provider(path)
        for line, name in literals(ast.parse(path.read_text()))
    ]
    assert named == []


def test_no_task_names_a_provider() -> None:
    named = [
        f"{relative(path)}: {text}"
        for path in TASKS
        if not is_of_a_provider(path)
        for text in texts(yaml.safe_load(path.read_text()))
        if set(re.split(r"[^a-z0-9]+", text)) & IDENTIFIERS or "provider_existing" in text
    ]
    assert named == []
