"""Every role has the same files, and its argument_specs match its defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import page_parts
import pytest
import reference_docs
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(p.parents[1] for p in ROOT.glob("roles/*/tasks/main.yml"))
FOLDERS = sorted(p for p in (ROOT / "roles").iterdir() if p.is_dir())
SHAPE = ("defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml", "README.md")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.is_file() else None


def specs(role: Path) -> dict[str, dict[str, Any]]:
    return dict(load(role / "meta" / "argument_specs.yml")["argument_specs"])


def tasks(items: Any) -> list[dict[str, Any]]:
    """Return all tasks of a file, including those of blocks."""
    flat: list[dict[str, Any]] = []
    for item in items or []:
        flat.append(item)
        for part in ("block", "rescue", "always"):
            flat += tasks(item.get(part))
    return flat


def role_name(role: Path) -> str:
    return role.name


def calls(folder: Path) -> set[tuple[str, str]]:
    """Return (role, entry point) of every import_role and include_role below ``folder``, without templated names."""
    called = set()
    for path in sorted(folder.rglob("*.yml")):
        text = path.read_text()
        for match in re.finditer(r"(?:import|include)_role:\s*\n((?:\s+\w+:.*\n)+)", text):
            words = dict(re.findall(r"(\w+):\s*(\S+)", match[1]))
            name = words.get("name", "").removeprefix("devenv.lab.")
            if name and "{" not in name:
                called.add((name, words.get("tasks_from", "main").removesuffix(".yml")))
    return called


def test_roles_exist() -> None:
    assert FOLDERS


@pytest.mark.parametrize("role", FOLDERS, ids=role_name)
def test_a_role_has_all_its_files(role: Path) -> None:
    assert [file for file in SHAPE if not (role / file).is_file()] == []
    assert re.fullmatch(r"[a-z][a-z0-9_]*", role.name)


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_defaults_match_the_specs(role: Path) -> None:
    defaults = load(role / "defaults" / "main.yml") or {}
    specified: dict[str, Any] = {}
    for entry, spec in specs(role).items():
        for name, option in (spec.get("options") or {}).items():
            if "default" not in option:
                continue
            assert specified.setdefault(name, option["default"]) == option["default"], (
                f"{entry}: {name} has two defaults"
            )
    assert specified == defaults


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_a_variable_is_the_same_at_every_entry_point(role: Path) -> None:
    first: dict[str, Any] = {}
    for entry, spec in specs(role).items():
        for name, option in (spec.get("options") or {}).items():
            shown = {k: v for k, v in option.items() if k != "required"}
            assert first.setdefault(name, shown) == shown, f"{entry}: {name}"


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_options_have_prefixed_names_and_descriptions(role: Path) -> None:
    for entry, spec in specs(role).items():
        assert (role / "tasks" / f"{entry}.yml").is_file(), f"{entry} has no tasks"
        assert str(spec.get("short_description", "")).strip(), f"{entry} has no short description"
        for name, option in (spec.get("options") or {}).items():
            # Variables that roles share begin with devenv_; all others begin with the name of the role.
            assert name.startswith((f"{role.name}_", "devenv_")), name
            assert option.get("description"), f"{name} is not described"
            assert {"required", "default"} - option.keys(), f"{name} is required and has a default"


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_defaults_and_vars_have_prefixed_names(role: Path) -> None:
    assert [n for n in load(role / "defaults" / "main.yml") or {} if not n.startswith(f"{role.name}_")] == []
    assert [n for n in load(role / "vars" / "main.yml") or {} if not n.startswith(f"__{role.name}_")] == []


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_every_entry_point_has_a_spec(role: Path) -> None:
    used = {entry for name, entry in calls(ROOT / "playbooks") | calls(ROOT / "molecule") if name == role.name}
    for other in ROLES:
        used |= {entry for name, entry in calls(other) if name == role.name and other != role}
    assert used | {"main"} <= set(specs(role))


def test_every_called_role_exists() -> None:
    names = {name for top in ("playbooks", "molecule", "roles") for name, _ in calls(ROOT / top)}
    assert names <= {role.name for role in ROLES}


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_task_names_begin_with_their_file(role: Path) -> None:
    wrong = []
    for path in sorted((role / "tasks").rglob("*.yml")):
        stem = path.relative_to(role / "tasks").with_suffix("").as_posix()
        for task in tasks(load(path)):
            name = str(task.get("name", ""))
            if not name or (stem != "main" and not name.lower().startswith(f"{stem} | ".lower())):
                wrong.append(f"{path.relative_to(ROOT)}: {name!r}")
    assert wrong == []


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_metadata_is_complete(role: Path) -> None:
    info = load(role / "meta" / "main.yml")["galaxy_info"]
    assert (info["author"], info["license"], info["min_ansible_version"]) == (
        "devenv maintainers",
        "Apache-2.0",
        "2.19",
    )
    assert info["description"].strip()
    assert {"name": "Debian", "versions": ["bookworm"]} in info["platforms"]
    assert load(role / "meta" / "main.yml").get("dependencies", []) == []


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_the_readme_table_is_up_to_date(role: Path) -> None:
    readme = (role / "README.md").read_text()
    assert page_parts.filled(readme, reference_docs.role_table(specs(role)), "variables") == readme, "run make docs"


@pytest.mark.parametrize("role", ROLES, ids=role_name)
def test_every_role_has_a_scenario(role: Path) -> None:
    assert (ROOT / "molecule" / role.name / "molecule.yml").is_file()
    assert (ROOT / "molecule" / role.name / "verify.yml").is_file()
