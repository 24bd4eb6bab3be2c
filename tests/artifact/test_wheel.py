"""The wheel: what is in it, and that it works where nothing else is installed."""

from __future__ import annotations

import json
import os
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import collection_archive
import pytest
from support.inventories import hosts_of

CARRIED = ("configs", "inventories", "meta", "playbooks", "plugins", "roles")
INSIDE = "ansible_collections/devenv/lab"
VERSION = tomllib.loads((collection_archive.ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_wheel_holds_the_package_and_the_collection(dist: Path, committed: Callable[..., set[str]]) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    assert len(names) == len(set(names))
    package = {name.removeprefix("wrapper/src/") for name in committed("wrapper/src/devenv")}
    collection = {f"{INSIDE}/{name}" for name in committed(*CARRIED)}
    metadata = f"devenv_lab-{VERSION}.dist-info/"
    assert package
    assert collection
    assert {name for name in names if not name.startswith(metadata)} == package | collection


def test_the_source_distribution_has_no_links(dist: Path) -> None:
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as tar:
        assert [m.name for m in tar.getmembers() if m.issym() or m.islnk()] == []


def test_the_command_answers(package) -> None:
    shown = package.run("devenv", "version")
    assert VERSION in shown.stdout
    assert json.loads(package.run("devenv", "version", "--json").stdout)


def test_pytest_knows_the_examples_and_the_plugin(package) -> None:
    """Demands are checked at collection, against data in the wheel."""
    words = ["-q", "--collect-only", "-p", "no:cacheprovider", str(collection_archive.ROOT / "examples")]
    shown = package.run("pytest", *words)
    assert "test_flows.py::test_hq_ha" in shown.stdout
    assert "6 tests collected" in shown.stdout
    # Without --install, the error names the option that creates the cluster.
    shown = package.run("pytest", "-q", "-o", "addopts=", *words[2:], "-k", "test_aio", code=1)
    assert "no ready cluster for cluster1; --install creates one" in shown.stdout


def test_a_profile_lists_its_hosts(package) -> None:
    inventory = installed(package) / "inventories" / "profile"
    shown = package.run("ansible-inventory", f"--inventory={inventory}", "--extra-vars=profile=master-2pipe", "--list")
    hosts = hosts_of(json.loads(shown.stdout))
    assert hosts["control_plane"] == ["master-0"]
    assert hosts["workers"] == ["worker-0", "worker-1"]


def test_the_playbook_is_found_by_name(package) -> None:
    inventory = installed(package) / "inventories" / "profile"
    arguments = [f"--inventory={inventory}", "--extra-vars=profile=aio", "--list-tasks", "devenv.lab.cluster"]
    assert "play #1" in package.run("ansible-playbook", *arguments).stdout


@pytest.mark.cluster
def test_check_mode_of_the_playbook_changes_nothing(package, tmp_path: Path) -> None:
    inventory = installed(package) / "inventories" / "profile"
    shown = package.run(
        "ansible-playbook",
        f"--inventory={inventory}",
        "--extra-vars=profile=aio devenv_name=e2e-artifact",
        "--check",
        "devenv.lab.cluster",
        DEVENV_HOME=str(tmp_path / "home"),
        XDG_CACHE_HOME=os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
    )
    assert "failed=0" in shown.stdout
    assert not (tmp_path / "home").exists()


def test_the_pytest_plugin_is_there(package) -> None:
    entry = package.run("python", "-c", "import importlib.metadata as m; print(m.entry_points(group='pytest11'))")
    assert "devenv.testing.plugin" in entry.stdout


def test_the_second_wheel_holds_its_modules(compat: Path, committed: Callable[..., set[str]]) -> None:
    with zipfile.ZipFile(compat) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    modules = {name.removeprefix("compat/src/") for name in committed("compat/src")}
    assert modules
    assert {name for name in names if ".dist-info/" not in name} == modules


def test_an_old_suite_runs_where_only_the_wheels_are_installed(package, tmp_path: Path) -> None:
    (tmp_path / "test_old.py").write_text(
        "from infra.model import plugins\n"
        "from automation_infra.utils import waiter\n"
        "from pytest_automation_infra.helpers import hardware_config\n"
        "def test_plain(): assert waiter.wait_for_predicate(lambda: 1) == 1\n"
        "@hardware_config({'host1': {'base_image': 'k8s_base'}}, grouping={'cluster1': {'hosts': ['host1']}})\n"
        "def test_cluster(base_config): pass\n"
    )
    words = ["test", "run", str(tmp_path), "--sf=-p pytest_devops_infra", f"--logs-dir={tmp_path}/logs"]
    shown = package.run("devenv", *words, "-p", "no:cacheprovider", code=1)
    assert "1 passed, 1 error" in shown.stdout
    assert "no ready cluster for cluster1; --install creates one" in shown.stdout
    assert (tmp_path / "logs" / "passed").is_dir()


def installed(package) -> Path:
    """The collection's folder in the environment of the wheel."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return Path(package.venv, "lib", version, "site-packages", INSIDE)
