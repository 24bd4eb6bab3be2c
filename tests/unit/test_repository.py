"""Rules for the repository as a whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

# Where packages come from is the machine's own setting: no file may name such a place. In two parts, for this file too.
REGISTRIES = (
    ("debian", "org"),
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("npmjs", "org"),
    ("proxy.golang", "org"),
    ("sum.golang", "org"),
    ("goproxy", "io"),
    ("galaxy.ansible", "com"),
)
# A match of places() in a YAML file.
YAML_LINE = re.compile(r"[^:]+\.ya?ml:")
LINKS = {"collections/ansible_collections/devenv/lab": "../../..", "playbooks/collections": "../collections"}


def files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [p for p in paths if p.is_file() and not p.is_symlink()]


def text_files() -> list[tuple[Path, str]]:
    texts = []
    for path in files():
        data = path.read_bytes()
        if b"\0" not in data:
            texts.append((path.relative_to(ROOT), data.decode()))
    return texts


def lines(skip: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every line of the text files."""
    for path, text in text_files():
        if path.as_posix() not in skip:
            for number, line in enumerate(text.splitlines(), 1):
                yield f"{path}:{number}", line


def places(pattern: re.Pattern[str], skip: tuple[str, ...] = ()) -> list[str]:
    return [f"{place}: {line.strip()[:100]}" for place, line in lines(skip) if pattern.search(line)]


def test_no_file_names_a_registry() -> None:
    hosts = "|".join(re.escape(".".join(parts)) for parts in REGISTRIES)
    pattern = re.compile(rf"(?<![\w-])(?:{hosts})\b")
    assert pattern.search("deb." + ".".join(REGISTRIES[0])), "the search finds nothing"
    assert places(pattern) == []


def test_no_file_contains_a_path_of_this_machine() -> None:
    folders = {str(ROOT)} | ({str(ROOT.parent)} if len(ROOT.parents) == 2 else set())
    pattern = re.compile("|".join(rf"(?<![\w.~$}}-]){re.escape(p)}(?=[/\s'\"`]|$)" for p in folders))
    assert pattern.search(f"cd {ROOT}"), "the search finds nothing"
    assert places(pattern) == []
    assert places(re.compile(r"(?<![\w.])/(?:home|Users)/[a-z]\w+/")) == []


def test_no_blanks_at_line_ends_and_a_newline_at_the_end() -> None:
    wrong = []
    for path, text in text_files():
        if path.parts[0] == "LICENSES":
            continue
        if text and not text.endswith("\n"):
            wrong.append(f"{path}: no newline at the end")
        wrong += [
            f"{path}:{n}: blanks at the end" for n, line in enumerate(text.split("\n"), 1) if line != line.rstrip()
        ]
        if "\t" in text and path.suffix in (".yml", ".yaml", ".py"):
            wrong.append(f"{path}: a tab")
    assert wrong == []


@pytest.mark.parametrize(("link", "target"), LINKS.items())
def test_links_lead_to_their_targets(link: str, target: str) -> None:
    assert os.readlink(ROOT / link) == target
    assert (ROOT / link).resolve().is_dir()


def test_no_other_links() -> None:
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split("\t")[1] for line in listed.splitlines() if line.startswith("120000")} == set(LINKS)


def test_one_version_everywhere() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = yaml.safe_load((ROOT / "changelogs" / "changelog.yaml").read_text())
    newest = max(changelog["releases"], key=lambda v: tuple(int(part) for part in v.split(".")))
    compat = tomllib.loads((ROOT / "compat" / "pyproject.toml").read_text())["project"]
    assert galaxy == project == newest == compat["version"]
    assert f"devenv-lab[test]=={project}" in compat["dependencies"]
    assert f'<a id="v{newest.replace(".", "-")}"></a>' in (ROOT / "CHANGELOG.md").read_text()


def test_one_ansible_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    alone = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert alone
    assert [line for line in alone if line not in project] == []
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())["requires_ansible"]
    assert runtime == ">=2.19.0,<2.20.0"
    assert any(line.startswith("ansible-core>=2.19") and line.endswith("<2.20") for line in project)


def test_modules_of_an_action_group_share_options() -> None:
    groups = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())["action_groups"]
    modules = [f"devenv.lab.{name}" for names in groups.values() for name in names]
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")}
    program = Path(sys.executable).with_name("ansible-doc")
    shown = subprocess.run([program, "--json", *modules], env=env, capture_output=True, text=True, check=True).stdout
    options = {name: set(entry["doc"]["options"]) for name, entry in json.loads(shown).items()}
    for group, names in groups.items():
        assert set.intersection(*(options[f"devenv.lab.{name}"] for name in names)) - {"state"}, group


def test_continuous_integration_runs_make_test_alone() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands == ["set -eu", 'cd "$(dirname "$0")/.."', "exec make test"]


def test_yaml_files_end_in_yml() -> None:
    # Three tools require the long form.
    allowed = {"changelogs/config.yaml", "changelogs/changelog.yaml", ".pre-commit-config.yaml"}
    assert {p.relative_to(ROOT).as_posix() for p in files() if p.suffix == ".yaml"} <= allowed


def test_no_lint_rule_is_switched_off() -> None:
    config = yaml.safe_load((ROOT / ".ansible-lint").read_text())
    assert set(config) == {"profile", "offline", "exclude_paths"}
    assert config["profile"] == "production"
    # An exception names one file and one rule, below the reason for it.
    blocks = (ROOT / ".ansible-lint-ignore").read_text().strip().split("\n\n")
    assert [block for block in blocks if not block.startswith("# ")] == []
    assert {line.split()[1] for block in blocks for line in block.splitlines()[1:]} == {"var-naming[no-role-prefix]"}
    in_yaml = re.compile(r"#\s*(?:no" r"qa|yaml" r"lint disable)")
    without_rule = re.compile(r"#\s*(?:no" r"qa(?!: [A-Z])|type" r": ignore(?!\[))")
    assert [place for place in places(in_yaml) if YAML_LINE.match(place)] == []
    assert places(without_rule) == []


def test_nothing_swallows_errors_of_tasks() -> None:
    matches = places(re.compile(r"^\s*(?:ignore" r"_errors|ignore" r"_unreachable):|failed_when: *false"))
    assert [place for place in matches if YAML_LINE.match(place)] == []


def test_playbooks_parse() -> None:
    playbooks = sorted(str(p) for p in (ROOT / "playbooks").glob("*.yml"))
    assert playbooks
    program = Path(sys.executable).with_name("ansible-playbook")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED" and not k.startswith("ANSIBLE_")}
    checked = subprocess.run(
        [program, "--syntax-check", *playbooks], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_lists_of_masters_keep_their_order() -> None:
    """Ansible's set filters return another order in each run, so that the first master would change."""
    pattern = re.compile(r"control_plane'?\]?\s*\|\s*(?:intersect|difference|union|symmetric_difference)\(")
    assert pattern.search("{{ groups['control_plane'] | intersect(x) }}"), "the search finds nothing"
    assert pattern.search("{{ engine_kubeadm_control_plane | difference(x) | first }}"), "the search finds nothing"
    matches = places(pattern, skip=("tests/unit/test_repository.py",))
    assert [line for line in matches if YAML_LINE.match(line)] == []
