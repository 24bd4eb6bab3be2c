"""A new provider needs one folder, one role and one file of configs; playbooks and commands work without changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("configs", "inventories", "meta", "playbooks", "plugins", "roles")

# Its machines are files. It has no network and cannot stop machines.
PROVIDER = """
    from __future__ import annotations

    import shutil

    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import RUNNING, Machine, ProvisionOutcome


    class Provider(base.Provider):
        name = "paper"
        failure = "profile_invalid"

        def create(self, request):
            plan = network_plan.make(request.profile, {"ipv4": "198.18.77.0/24"})
            state.write_network(request.folder, plan)
            missing = [node for node in request.nodes if not self._file(request.environment, node).exists()]
            for node in missing:
                self._file(request.environment, node).parent.mkdir(parents=True, exist_ok=True)
                self._file(request.environment, node).write_text(request.home)
            return ProvisionOutcome(made=missing)

        def remove(self, request, names):
            for node in names:
                self._file(request.environment, node).unlink()
            return ProvisionOutcome(removed=list(names))

        def destroy(self, request):
            removed = [machine.node for machine in self.machines(request.environment)]
            shutil.rmtree(self._file(request.environment, "").parent, ignore_errors=True)
            return ProvisionOutcome(removed=removed)

        def states(self, request):
            return {machine.node: machine.state for machine in self.machines(request.environment)}

        def machines(self, environment=None):
            return [
                Machine(f"{file.parent.name}-{file.stem}", file.parent.name, file.stem, file.read_text(), RUNNING, 0)
                for file in sorted(paths.home().parent.glob(f"machines/{environment or '*'}/*.machine"))
            ]

        def preflight(self, request):
            return []

        def _file(self, environment, node):
            return paths.home().parent / "machines" / environment / f"{node}.machine"
"""

CONFIG = """
    ---
    description: Machines that are files.
    machines: made
    image_store: false
    caches: []
    cannot: {stop: does not stop machines}
"""

TASK = """
    ---
    - name: {entry} | Set the state of the machines
      devenv.lab.nodes:
        provider: paper
        environment: "{{{{ devenv_name }}}}"
        state: {state}
      register: provider_result
"""
STATES = {"create": "present", "status": "status", "stop": "stopped", "destroy": "absent", "preflight": "preflight"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of collections with a copy of this one and the provider `paper`."""
    base = tmp_path_factory.mktemp("collections")
    lab = base / "ansible_collections" / "devenv" / "lab"
    for part in PARTS:
        shutil.copytree(ROOT / part, lab / part, ignore=shutil.ignore_patterns("collections", "__pycache__"))
    shutil.copy(ROOT / "galaxy.yml", lab)
    folder = lab / "plugins" / "plugin_utils" / "providers" / "paper"
    folder.mkdir()
    (folder / "provider.py").write_text(dedent(PROVIDER).lstrip())
    (lab / "configs" / "providers" / "paper.yml").write_text(dedent(CONFIG).lstrip())
    tasks = lab / "roles" / "provider_paper" / "tasks"
    tasks.mkdir(parents=True)
    for entry, state in STATES.items():
        (tasks / f"{entry}.yml").write_text(dedent(TASK.format(entry=entry, state=state)).lstrip())
    return base


def run(tree: Path, home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program with only this copy of the collection."""
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(tree),
        "PYTHONPATH": f"{tree}:{ROOT / 'wrapper' / 'src'}",
        "DEVENV_HOME": str(home),
    }
    return subprocess.run([*argv], capture_output=True, text=True, env=environment, timeout=120, cwd=tree)


def play(tree: Path, home: Path, playbook: str, *words: str) -> str:
    lab = tree / "ansible_collections" / "devenv" / "lab"
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = run(
        tree, home, program, "-i", str(lab / "inventories" / "profile"), str(lab / "playbooks" / playbook),
        "-e", json.dumps({"profile": "sno", "devenv_name": "lab", "devenv_overrides": {"provider": "paper"}}), *words,
    )  # fmt: skip
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


def machines(home: Path) -> list[str]:
    return [path.name for path in (home.parent / "machines").glob("*/*")]


def status(tree: Path, home: Path) -> list[str]:
    done = run(tree, home, sys.executable, "-m", "devenv", "status", "-n", "lab", "--json")
    return [node["container"] for node in json.loads(done.stdout)["nodes"]] if done.stdout else [done.stderr]


def test_the_new_provider_creates_reports_refuses_and_destroys(tree: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert play(tree, home, "provision.yml").startswith("0\n")
    assert machines(home) == ["master-0.machine"]
    assert "changed=0" in play(tree, home, "provision.yml")
    assert status(tree, home) == ["running"]

    refused = play(tree, home, "stop.yml")
    assert "the provider paper does not stop machines" in refused
    assert "provider_cannot" in refused

    assert play(tree, home, "destroy.yml").startswith("0\n")
    assert machines(home) == []
    assert not (home / "environments" / "lab").exists()


def test_an_environment_without_state_folder_is_found_by_its_provider(tree: Path, tmp_path: Path) -> None:
    """Without a known provider, each one searches for its machines. Check mode leaves those of others alone."""
    home = tmp_path / "home"
    paper = home.parent / "machines" / "lab" / "master-0.machine"
    paper.parent.mkdir(parents=True)
    paper.write_text(str(home))
    lab = tree / "ansible_collections" / "devenv" / "lab"
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    destroy = str(lab / "playbooks" / "destroy.yml")
    done = run(
        tree, home, program, "-i", str(lab / "inventories" / "profile"), destroy, "-e", "devenv_name=lab", "--check"
    )
    assert (done.returncode, "changed=1" in done.stdout) == (0, True), done.stdout + done.stderr
    assert machines(home) == ["master-0.machine"]
