"""The inventory plugin through the programs that users run, from another working directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

ANSIBLE = Path(sys.executable).parent
CHECKOUT = paths.COLLECTION
SUBNETS = {"ipv4": "10.213.4.0/24", "ipv6": "fd77:6465:7600:4::/64"}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home() -> Iterator[Path]:
    # A short path, so that ssh's sockets fit into the state directory.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder) / "h"


@pytest.fixture
def run(tmp_path: Path, home: Path) -> Run:
    """``run(program, arguments..., config=True)`` in a folder that is not the checkout, with its own DEVENV_HOME."""

    def call(*argv: str, config: bool = True) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTHON", "DEVENV_"))}
        env |= {"DEVENV_HOME": str(home), "ANSIBLE_NOCOLOR": "1"}
        if config:
            env["ANSIBLE_CONFIG"] = str(CHECKOUT / "ansible.cfg")
        else:
            env["ANSIBLE_COLLECTIONS_PATH"] = str(CHECKOUT / "collections")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        return subprocess.run(
            [str(ANSIBLE / argv[0]), *argv[1:]], cwd=elsewhere, env=env, capture_output=True, text=True, check=False
        )

    return call


def listed(run: Run, *arguments: str, **options: Any) -> dict[str, Any]:
    done = run("ansible-inventory", "--list", *arguments, **options)
    assert done.stderr == ""
    assert done.returncode == 0
    inventory: dict[str, Any] = json.loads(done.stdout)
    return inventory


def store(home: Path, name: str, resolved: dict[str, Any], claimed: bool = True) -> dict[str, Any]:
    folder = home / "environments" / name
    state.write_profile(folder, resolved)
    network = network_plan.make(resolved, SUBNETS)
    if claimed:
        state.write_network(folder, network)
    return network


def test_a_profile_name_gives_its_nodes_and_groups(run: Run) -> None:
    inventory = listed(run, "-e", "profile=master_2pipe")
    assert inventory["nodes"]["hosts"] == ["master-0", "worker-0", "worker-1"]
    assert inventory["label_pipe"]["hosts"] == ["worker-0", "worker-1"]
    host = inventory["_meta"]["hostvars"]["worker-0"]
    assert (host["devenv_name"], host["devenv_profile"]["topology"]) == ("master-2pipe", "master-2pipe")
    assert "ansible_host" not in host


def test_the_inventory_directory_alone_is_enough(run: Run) -> None:
    inventory = listed(run, "-i", str(CHECKOUT / "inventories" / "profile"), "-e", "profile=aio", config=False)
    assert inventory["nodes"]["hosts"] == ["master-0"]


def test_without_a_profile_the_inventory_is_empty(run: Run) -> None:
    assert listed(run)["_meta"]["hostvars"] == {}


def test_a_profile_file_takes_overrides_and_the_claimed_network(run: Run, tmp_path: Path, home: Path) -> None:
    mine = tmp_path / "elsewhere" / "mine.yml"
    mine.parent.mkdir()
    mine.write_text("extends: aio-dualstack-static\n")
    store(home, "mine", resolve(str(mine)))
    overrides = json.dumps({"devenv_overrides": {"nodes.worker-0": {}, "nodes.master-0.labels.a.b/c": "{{ no }}"}})
    bad = run("ansible-inventory", "--list", "-e", "profile=./mine.yml", "-e", overrides)
    assert "must be a Kubernetes label value" in bad.stderr
    inventory = listed(run, "-e", "profile=./mine.yml", "-e", overrides.replace("{{ no }}", "yes"))
    hosts = inventory["_meta"]["hostvars"]
    assert hosts["master-0"]["ansible_host"] == "10.213.4.10"
    assert hosts["master-0"]["devenv_addresses"] == ["10.213.4.10", "fd77:6465:7600:4::10"]
    assert hosts["master-0"]["devenv_labels"]["a.b/c"] == "yes"
    assert (hosts["worker-0"]["devenv_index"], hosts["worker-0"]["devenv_addresses"]) == (1, [])
    assert (home / "environments/mine/ssh/cp").stat().st_mode & 0o777 == 0o700


def test_short_variables_override_the_profile(run: Run, home: Path) -> None:
    short = ("-e", "devenv_kubernetes_version=1.35.4", "-e", "devenv_engine=kubeadm", "-e", "devenv_provider=libvirt")
    host = listed(run, "-e", "profile=aio", *short)["_meta"]["hostvars"]["master-0"]
    assert host["devenv_profile"]["kubernetes"] == {"version": "1.35.4", "engine": "kubeadm"}
    assert host["devenv_provider"] == host["devenv_profile"]["provider"] == "libvirt"
    # The version of an existing environment changes by an upgrade only.
    store(home, "lab", resolve("sno"))
    host = listed(run, "-e", "devenv_name=lab", *short[:2])["_meta"]["hostvars"]["master-0"]
    assert host["devenv_profile"]["kubernetes"]["version"] == "1.36.3"


def test_an_environment_name_alone_gives_its_nodes(run: Run, home: Path) -> None:
    store(home, "lab", resolve("sno"))
    store(home.with_name("o"), "lab", resolve("master-2pipe"))
    assert listed(run, "-e", "devenv_name=lab")["nodes"]["hosts"] == ["master-0"]
    other = listed(run, "-e", "devenv_name=lab", "-e", f"devenv_home={home.with_name('o')}")
    assert len(other["nodes"]["hosts"]) == 3
    assert listed(run, "-e", "devenv_name=absent")["_meta"]["hostvars"] == {}


def test_the_snapshots_profile_is_used_until_the_environment_exists(run: Run, home: Path) -> None:
    folder = home / "snapshots" / "with-data"
    folder.mkdir(parents=True)
    saved = resolve("master-2pipe", overrides={"storage.enabled": True})
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "profile": saved}))
    snapshot = ("-e", "devenv_name=next", "-e", "devenv_snapshot=with-data")
    inventory = listed(run, *snapshot, "-e", json.dumps({"devenv_overrides": {"nodes.worker-0.labels.team": "blue"}}))
    hosts = inventory["_meta"]["hostvars"]
    assert set(hosts) == {"master-0", "worker-0", "worker-1"}
    assert hosts["worker-0"]["devenv_profile"]["storage"]["enabled"] is True
    assert hosts["worker-0"]["devenv_labels"]["team"] == "blue"
    store(home, "next", resolve("sno"))
    assert listed(run, *snapshot)["nodes"]["hosts"] == ["master-0"]
    # A snapshot that does not exist yet gives an empty inventory.
    assert listed(run, "-e", "devenv_name=none", "-e", "devenv_snapshot=absent")["_meta"]["hostvars"] == {}


def test_a_broken_state_gives_a_warning_and_allows_destroy(run: Run, home: Path) -> None:
    folder = home / "environments/lab"
    folder.mkdir(parents=True)
    (folder / "profile.yml").write_text("a: [\n")
    done = run("ansible-inventory", "--list", "-e", "devenv_name=lab")
    assert done.returncode == 0
    assert "[WARNING]: The environment's state is not used: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-e", "profile=aoi"], 'no profile is named "aoi"; the nearest name is aio [profile_unknown]'),
        (["-e", "profile=./none.yml"], "none.yml: no such file [profile_missing]"),
        (["-e", "profile=ha-ipv4-static-disc"], "connectivity: not built yet [not_built]"),
        (["-e", "profile=aio", "-e", "devenv_name=A"], '"A" is not a valid name for an environment [name_invalid]'),
        (["-e", "profile=aio", "-e", "devenv_overrides=x"], 'NAME=VALUE is always text [variable_invalid]'),
        (["-e", "profile=aio", "-e", '{"devenv_overrides": {"stacks": 1}}'], "[profile_invalid]"),
        (["-e", "profile=aio", "-e", "devenv_provider=podmn"], "[profile_invalid]"),
        (
            ["-e", "profile=aio", "-e", "devenv_engine=x", "-e", '{"devenv_overrides": {"kubernetes.engine": "y"}}'],
            "[profile_invalid]",
        ),
    ],
)  # fmt: skip
def test_errors_end_the_run_with_one_line_and_the_reason(run: Run, arguments: list[str], message: str) -> None:
    done = run("ansible-inventory", "--list", *arguments)
    assert done.returncode != 0
    first = done.stderr.splitlines()[0]
    assert first.endswith(message)
    assert "Traceback" not in done.stderr


PLAYBOOK = """
- name: Check that localhost stays implicit and has the variables
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Show the variables
      ansible.builtin.debug:
        msg: "{{ devenv_name }} {{ groups['all'] }} {{ hostvars['master-0'].ansible_host | default('none') }}"
    - name: Claim the network as a provider does
      ansible.builtin.copy:
        src: "{{ claimed }}"
        dest: "{{ devenv_state }}/network.yml"
        mode: "0600"
    - name: Read the inventory again
      ansible.builtin.meta: refresh_inventory

- name: Check that nodes have their addresses now
  hosts: nodes
  gather_facts: false
  tasks:
    - name: Show the address
      ansible.builtin.debug:
        msg: "now {{ ansible_host }}"
"""


def test_refresh_shows_what_the_provider_claimed(run: Run, tmp_path: Path, home: Path) -> None:
    resolved = resolve("sno")
    store(home, "sno", resolved, claimed=False)
    claimed = tmp_path / "claimed.yml"
    claimed.write_text(state.dump(network_plan.make(resolved, SUBNETS)))
    book = tmp_path / "book.yml"
    book.write_text(PLAYBOOK)
    done = run("ansible-playbook", str(book), "-e", "profile=sno", "-e", f"claimed={claimed}")
    assert done.returncode == 0, done.stdout
    assert "sno ['master-0'] none" in done.stdout
    assert '"now 10.213.4.10"' in done.stdout
    assert "WARNING" not in done.stdout + done.stderr
