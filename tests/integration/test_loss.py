"""A playbook never bootstraps a cluster that is on record, unless the run accepts the loss."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.commands import ROOT, program, start_ansible

PLAY = """
- hosts: master-0
  gather_facts: false
  tasks:
    - name: Refuse an empty cluster in place of a lost one
      devenv.lab.members:
        action: bootstrap
        nodes: [master-0]
        recreate: "{{ devenv_recreate | default(false) }}"
"""


@pytest.mark.parametrize(
    ("recorded", "words", "refused"),
    [(["master-0"], [], True), (["master-0"], ["devenv_recreate=true"], False), ([], [], False)],
)
def test_a_recorded_cluster_is_not_bootstrapped(
    tmp_path: Path, recorded: list[str], words: list[str], refused: bool
) -> None:
    record = tmp_path / "clusters" / "main" / "members.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(recorded))
    playbook = tmp_path / "play.yml"
    playbook.write_text(PLAY)
    variables = [f"devenv_state={tmp_path}", "devenv_cluster=main", "devenv_name=lab", *words]
    done = subprocess.run(
        [program("ansible-playbook"), "-i", "master-0,", str(playbook), *(f"-e{word}" for word in variables)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode != 0) is refused, done.stdout
    assert ("every object of cluster main" in done.stdout) is refused
    assert record.exists() is (refused or not recorded)


@pytest.mark.parametrize(("words", "refused"), [([], True), (["-e", "devenv_recreate=true"], False)])
def test_preflight_refuses_a_lost_cluster_unless_the_run_accepts_it(
    tmp_path: Path, words: list[str], refused: bool
) -> None:
    """With the playbook of the stage; other requirements of this host may fail afterwards."""
    record = tmp_path / "environments" / "lost" / "clusters" / "main" / "members.json"
    record.parent.mkdir(parents=True)
    record.write_text('["master-0"]')
    done = start_ansible(
        "-i",
        str(ROOT / "inventories" / "profile"),
        str(ROOT / "playbooks" / "preflight.yml"),
        "--check",
        *("-e", "profile=sno", "-e", "devenv_name=lost", *words),
        home=tmp_path,
        cwd=ROOT,
    )
    output = done.communicate(timeout=120)[0]
    assert ("the data of master-0 are gone" in output) is refused
    assert "preflight | Check this host" in output
