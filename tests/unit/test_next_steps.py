"""The lines that state how to use an environment and how to remove it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import next_steps
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve


@pytest.mark.parametrize(("only_one", "option"), [(True, ""), (False, " -n lab")])
def test_commands_of_devenv_name_the_environment_unless_it_is_the_only_one(only_one: bool, option: str) -> None:
    resolved = resolve("master-2pipe")
    assert next_steps.with_devenv("lab", resolved, "1.3s", only_one=only_one) == [
        f"lab is up: 3 nodes, Kubernetes {resolved['kubernetes']['version']}, in 1.3s",
        f'use it:     eval "$(devenv env{option})" && kubectl get nodes',
        f"remove it:  devenv down{option}",
    ]


def test_commands_of_ansible_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = resolve("aio")
    monkeypatch.chdir(tmp_path)
    path = paths.COLLECTION / "playbooks" / "destroy.yml"
    assert next_steps.with_ansible("aio", resolved, Path("/state/a b")) == [
        f"aio is up: 1 node, Kubernetes {resolved['kubernetes']['version']}",
        "use it:     export KUBECONFIG='/state/a b/clusters/main/kubeconfig' && kubectl get nodes",
        f"remove it:  ansible-playbook {path} -e devenv_name=aio",
    ]
    monkeypatch.chdir(paths.COLLECTION)
    assert "ansible-playbook playbooks/destroy.yml" in next_steps.with_ansible("aio", resolved, tmp_path)[-1]


def test_commands_of_ansible_with_an_installed_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "COLLECTION", tmp_path)
    last = next_steps.with_ansible("aio", resolve("aio"), tmp_path)[-1]
    assert last == "remove it:  ansible-playbook devenv.lab.destroy -e devenv_name=aio"


def test_commands_of_ansible_without_a_cluster() -> None:
    resolved = {**resolve("aio"), "clusters": {}}
    assert "ansible -i /state/inventory.yml nodes" in next_steps.with_ansible("aio", resolved, Path("/state"))[1]


def test_commands_of_devenv_name_one_of_several_clusters() -> None:
    def use(*clusters: str) -> str:
        resolved = {**resolve("aio"), "clusters": {name: {} for name in clusters}}
        return next_steps.with_devenv("lab", resolved, "1s", only_one=True)[1].removeprefix("use it:     ")

    assert use("red", "blue") == 'eval "$(devenv env --cluster red)" && kubectl get nodes'
    assert use("red") == use("red", "main") == 'eval "$(devenv env)" && kubectl get nodes'
    assert use() == "devenv ssh master-0"
