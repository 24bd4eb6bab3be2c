"""Installers of a project on a living cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import Typed, shown

pytestmark = pytest.mark.cluster

CONFTEST = """
from devenv.testing import Installer, register_installer


class Orders(Installer):
    engine = "kubeadm"
    needs = ("k8s", "one", "two")

    def install(self, target, base_config, request):
        written = base_config.hosts.host1.SshDirect.execute("cat /run/test-one /run/test-two")
        nodes = [node.metadata.name for node in target.Kubectl.get_nodes()]
        with open("seen", "a") as stream:
            print(written, *nodes, file=stream)


class Old(Installer):
    on = "host"

    def session_install(self, target, request):
        target.SshDirect.execute("rm /run/test-one /run/test-two")


register_installer("orders", Orders)
register_installer("old", Old)
"""
NAMES = """
installers:
  one: {{target: host, role: {folder}/mark, variables: {{mark: one}}}}
  two: {{target: host, role: {folder}/mark, variables: {{mark: two}}}}
"""
TASKS = """
- name: Write the mark
  ansible.builtin.copy:
    content: "{{ mark }} "
    dest: /run/test-{{ mark }}
    mode: "0600"
"""
TEST = """
from devenv.testing import hardware_config

hosts = {"host1": {"hardware_type": "vm", "base_image": "k8s_base"}}


@hardware_config(hardware=hosts, grouping={"cluster1": {"hosts": ["host1"], "installer_type": "orders"}})
def test_roles_ran_before_the_cluster(base_config):
    assert base_config.clusters.cluster1.installer == "orders"


@hardware_config(hardware={"host1": {"installer": "old"}}, grouping={"cluster1": {"hosts": ["host1"]}})
def test_the_marks_are_gone(base_config):
    assert "test-" not in base_config.hosts.host1.SshDirect.execute("ls /run")
"""


def test_independent_roles_run_before_the_installer_that_needs_them(user: Typed, trial: str, tmp_path: Path) -> None:
    (tmp_path / "mark" / "tasks").mkdir(parents=True)
    (tmp_path / "mark" / "tasks" / "main.yml").write_text(TASKS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "devenv-testing.yml").write_text(NAMES.format(folder=tmp_path))
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --install -p no:cacheprovider --color=no\n")
    (tmp_path / "test_it.py").write_text(TEST)
    done = Typed(user.home, tmp_path).run("pytest", f"--devenv-env={trial}", code=None)
    assert "2 passed" in done.stdout, shown(done)
    assert (tmp_path / "seen").read_text() == "one two  master-0\n"
