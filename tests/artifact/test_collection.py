"""The archive that `ansible-galaxy collection build` makes: what is in it, and that it works alone."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.inventories import hosts_of

FOLDERS = ("configs", "docs", "inventories", "LICENSES", "meta", "playbooks", "plugins", "roles")
FILES = ("README.md", "CHANGELOG.md", "requirements.txt", "MANIFEST.json", "FILES.json")
STRANGERS = (
    "examples",
    "wrapper",
    "compat",
    "tests",
    "tools",
    "molecule",
    "collections",
    "pyproject.toml",
    "Makefile",
    "dist",
)


def test_the_archive_holds_what_belongs_in_it(archive: Path, committed: Callable[..., set[str]]) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    names = {m.name for m in members}
    assert [m.name for m in members if not (m.isfile() or m.isdir())] == []
    expected = committed(*FOLDERS)
    assert expected
    assert sorted((expected | set(FILES)) - names) == []
    tops = {name.split("/")[0] for name in names}
    assert tops & set(STRANGERS) == set()
    assert [name for name in names if name.startswith(".") or "__pycache__" in name or name.endswith(".pyc")] == []
    assert "playbooks/collections" not in names


def test_a_profile_lists_its_hosts_by_the_installed_inventory(collection: Path, collection_only) -> None:
    shown = collection_only.run(
        "ansible-inventory",
        f"--inventory={collection}/inventories/profile",
        "--extra-vars=profile=aio",
        "--list",
        ANSIBLE_COLLECTIONS_PATH=str(collection.parents[2]),
    )
    hosts = hosts_of(json.loads(shown.stdout))
    assert hosts["control_plane"] == ["master-0"]
    variables = json.loads(shown.stdout)["_meta"]["hostvars"]["master-0"]
    assert variables["devenv_name"] == "aio"
    assert variables["devenv_labels"]


@pytest.mark.parametrize("playbook", ["cluster", "destroy", "node_add"])
def test_playbooks_are_found_by_name(collection: Path, collection_only, playbook: str) -> None:
    shown = collection_only.run(
        "ansible-playbook",
        f"--inventory={collection}/inventories/profile",
        "--extra-vars=profile=aio",
        "--list-tasks",
        f"devenv.lab.{playbook}",
        ANSIBLE_COLLECTIONS_PATH=str(collection.parents[2]),
    )
    plays = yaml.safe_load((collection / "playbooks" / f"{playbook}.yml").read_text())
    assert shown.stdout.count("play #") >= len(plays) > 0


def test_a_playbook_that_needs_no_environment_runs_by_name(collection: Path, collection_only) -> None:
    shown = collection_only.run(
        "ansible-playbook", "devenv.lab.snapshot_list", ANSIBLE_COLLECTIONS_PATH=str(collection.parents[2])
    )
    assert "snapshots" in shown.stdout
    refused = collection_only.run(
        "ansible-playbook", "devenv.lab.bundle_export", ANSIBLE_COLLECTIONS_PATH=str(collection.parents[2]), code=2
    )
    assert "devenv_archive is not given" in refused.stdout + refused.stderr


def test_a_missing_library_is_reported_in_one_line(collection: Path, collection_only, tmp_path: Path) -> None:
    (tmp_path / "jsonschema.py").write_text("raise ImportError('not here')\n")
    # Only a user's file is validated and thus needs the library.
    profile = tmp_path / "own.yml"
    profile.write_text("extends: aio\n")
    arguments = [f"--inventory={collection}/inventories/profile", f"--extra-vars=profile={profile}", "--list"]
    shown = collection_only.run(
        "ansible-inventory",
        *arguments,
        ANSIBLE_COLLECTIONS_PATH=str(collection.parents[2]),
        ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED="true",
        PYTHONPATH=str(tmp_path),
        code=1,
    )
    lines = [line for line in shown.stderr.splitlines() if "jsonschema" in line]
    assert lines, shown.stderr
    assert "pip install" in " ".join(lines)
    assert "Traceback" not in shown.stderr


def test_the_documentation_of_every_plugin_can_be_read(collection: Path, collection_only) -> None:
    for kind, folder in (("module", "modules"), ("inventory", "inventory"), ("callback", "callback")):
        names = [f"devenv.lab.{p.stem}" for p in sorted((collection / "plugins" / folder).glob("[a-z]*.py"))]
        assert names
        shown = collection_only.run(
            "ansible-doc", "--json", "--type", kind, *names, ANSIBLE_COLLECTIONS_PATH=str(collection.parents[2])
        )
        assert set(json.loads(shown.stdout)) == set(names)
