"""Extra variables of plain ansible-playbook: refused by name, kept in the state; environments that expire."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.records import expiry
from ansible_collections.devenv.lab.plugins.plugin_utils.variables import kept
from support.commands import ROOT, start_ansible

Play = Callable[..., tuple[int, str]]

BEGIN = """\
- hosts: localhost
  gather_facts: false
  tasks:
    - devenv.lab.stage: {name: preflight, state: begin}
    - devenv.lab.stage: {name: preflight, state: end, last: true}
    - ansible.builtin.debug: {msg: "maxPods is {{ engine_kubeadm_kubelet['maxPods'] | default('unset') }}"}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """The state directory of an environment that does not use podman."""
    folder = tmp_path / "home" / "environments" / "lab"
    folder.mkdir(parents=True)
    resolved = resolve("sno", overrides={"provider": "libvirt"})
    state.write_profile(folder, resolved)
    state.write_network(folder, {**network_plan.make(resolved, {"ipv4": "10.213.9.0/24"}), "bridge": "lab9"})
    state.write_inventory(folder)
    return folder


@pytest.fixture
def play(tmp_path: Path) -> Play:
    def run(playbook: str | Path, *words: str) -> tuple[int, str]:
        path = ROOT / "playbooks" / f"{playbook}.yml" if isinstance(playbook, str) else playbook
        child = start_ansible(str(path), *words, home=tmp_path / "home", cwd=ROOT)
        text, _ = child.communicate(timeout=120)
        return child.returncode, text

    return run


@pytest.fixture
def begin(tmp_path: Path) -> Path:
    path = tmp_path / "begin.yml"
    path.write_text(BEGIN)
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-e", "validate_timout=9"], "-e validate_timout: the role validate has no such variable"),
        (["-e", "{validate_timeout: 0022}"], "-e validate_timeout: 0022 is not a plain number"),
        (["-e", "engine_gravity_wait=9"], "-e engine_gravity_wait: has no effect"),
    ],
)
def test_a_wrong_variable_is_refused_before_the_first_task(
    play: Play, lab: Path, words: list[str], message: str
) -> None:
    code, text = play("stop", "-e", "devenv_name=lab", *words)
    assert code != 0
    assert message in text
    assert "PLAY [" not in text


def test_a_static_inventory_refuses_it_too(play: Play, lab: Path, begin: Path, tmp_path: Path) -> None:
    path = tmp_path / "vars.yml"
    path.write_text("validate_timout: 9\n")
    for playbook in (begin, "cluster"):
        code, text = play(playbook, "-i", str(lab / "inventory.yml"), "-e", f"@{path}")
        assert code == 2, text
        assert "-e validate_timout: the role validate has no such variable (meant validate_timeout?)" in text
    assert lock.read(lab) is None


def test_a_variable_of_the_cluster_is_kept_and_later_refused(play: Play, lab: Path, begin: Path) -> None:
    given = ("-e", json.dumps({"engine_kubeadm_kubelet": {"maxPods": 50}, "my_own": 1}))
    assert "maxPods is 50" in play(begin, "-e", "devenv_name=lab", *given)[1]
    assert kept.read(lab) == {"engine_kubeadm_kubelet": {"maxPods": 50}}
    (lab / "clusters" / "main").mkdir(parents=True)
    (lab / "clusters" / "main" / "kubeconfig").touch()
    assert "maxPods is 50" in play(begin, "-e", "devenv_name=lab")[1]
    code, text = play(begin, "-e", "devenv_name=lab", "-e", '{"engine_kubeadm_kubelet": {"maxPods": 60}}')
    assert code == 2
    assert 'engine_kubeadm_kubelet: {"maxPods": 50} -> {"maxPods": 60}' in " ".join(text.split()).replace('\\"', '"')
    assert kept.read(lab) == {"engine_kubeadm_kubelet": {"maxPods": 50}}


def test_another_version_of_an_existing_environment_is_refused(play: Play, lab: Path, begin: Path) -> None:
    code, text = play(begin, "-e", "devenv_name=lab", "-e", "devenv_kubernetes_version=1.35.4")
    assert code == 2
    assert "a downgrade needs a new environment" in text


def test_an_environment_expires_and_is_extended(play: Play, lab: Path, begin: Path) -> None:
    assert play(begin, "-e", "devenv_name=lab", "-e", "devenv_ttl=soon")[0] == 2
    assert expiry.read(lab) is None
    assert play(begin, "-e", "devenv_name=lab", "-e", "devenv_ttl=2h")[0] == 0
    expires = expiry.read(lab)
    assert expires is not None
    assert timedelta(hours=1) < expires - datetime.now(UTC) < timedelta(hours=3)
    code, text = play("extend", "-e", "devenv_name=lab", "-e", "devenv_ttl=1h")
    assert code == 0, text
    assert expiry.read(lab) == expires + timedelta(hours=1)
    expiry.start(lab, "1h", datetime.now(UTC) - timedelta(days=1))
    assert '"lab"' in play("expired")[1]
