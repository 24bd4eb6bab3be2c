"""Real ansible-playbook runs with the stage action and the record callback: killed, interrupted, concurrent, refused.

They need neither root nor a container: the plays are short and run on this machine, with an inventory that has the same
variables as that of the profile plugin.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import processes, redact
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, network_plan, runs, state
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import kubeconfig_merge
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from support.commands import start_ansible
from support.plays import PREFLIGHT
from support.waits import until

CHECKOUT = Path(__file__).parents[2]
TOKEN = "abcdef.0123456789abcdef"

TAIL = """
- name: validate | End
  hosts: localhost
  gather_facts: false
  tasks:
    - {name: Begin the stage, devenv.lab.stage: {name: validate}}
    - {name: End the stage, devenv.lab.stage: {name: validate, state: end}}
"""
# The worst case: the module's program starts another one that has no marker and ignores SIGTERM.
LONG = """
- name: prepare | Work long
  hosts: nodes
  gather_facts: false
  tasks:
    - name: Work
      ansible.builtin.command:
        argv: [sh, -c, "env -u DEVENV_RUN sh -c 'trap : TERM; touch WORKING; while :; do sleep 0.1; done'; :"]
"""


@dataclass
class Lab:
    """A home, playbooks and the runs that were started in it."""

    path: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.path / "home"

    def folder(self, name: str = "aio") -> Path:
        return self.home / "environments" / name

    def playbook(self, *plays: str) -> Path:
        place = self.path / f"playbook{len(list(self.path.glob('*.yml')))}.yml"
        place.write_text("---" + "".join(plays).replace("WORKING", str(self.path / "working")))
        return place

    def inventory(self, name: str = "aio", profile: str = "aio") -> Path:
        resolved = resolve(profile)
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = {node["name"]: local for node in resolved["nodes"]}
        tree = {
            "all": {
                "vars": {"devenv_name": name, "devenv_profile": resolved, "ansible_python_interpreter": sys.executable},
                "children": {"nodes": {"hosts": hosts}},
            }
        }
        place = self.path / f"inventory-{name}-{profile}.yml"
        place.write_text(yaml.safe_dump(tree))
        return place

    def start(
        self, playbook: Path, *more: str, inventory: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        words = ["-i", str(inventory or self.inventory()), str(playbook), *more]
        child = start_ansible(*words, home=self.home, cwd=self.path, variables=env)
        self.started.append(child)
        return child

    def run(self, playbook: Path, *more: str, **options: Any) -> tuple[int, str]:
        child = self.start(playbook, *more, **options)
        text, _ = child.communicate(timeout=60)
        return child.returncode, text

    def last(self, document: str, name: str = "aio") -> dict[str, Any]:
        content: dict[str, Any] = json.loads((runs.folders(self.folder(name))[-1] / document).read_text())
        return content


def workers(lab: Lab) -> list[int]:
    """Return the running processes of LONG's task in this lab, including the loop without a marker."""
    return [
        process.pid
        for process in processes.all_processes().values()
        if process.state != "Z" and str(lab.path / "working") in processes.command_line(process.pid)
    ]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    for child in made.started:
        if child.poll() is None:
            child.kill()
        child.communicate()
    for pid in workers(made):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def working(lab: Lab, *more: str, **options: Any) -> subprocess.Popen[str]:
    """Start a run and wait until it executes LONG."""
    run = lab.start(lab.playbook(PREFLIGHT, LONG, TAIL), *more, **options)
    until(lambda: (lab.path / "working").exists() or run.poll() is not None)
    assert run.poll() is None, run.communicate()[0]
    assert workers(lab)
    return run


def test_a_good_run_leaves_records_and_no_lock(lab: Lab) -> None:
    code, text = lab.run(lab.playbook(PREFLIGHT, TAIL), "-vvv", "-e", f"devenv_artifacts={lab.path}/artifacts")
    assert code == 0, text
    assert "WARNING" not in text
    summary = lab.last("summary.json")
    assert (summary["exit"], summary["changed"], summary["module_calls"]) == (0, 0, 0)
    assert [stage["name"] for stage in summary["stages"]] == ["preflight", "validate"]
    assert [(line["stage"], line["result"]) for line in runs.ledger(lab.folder())] == [
        ("preflight", "begun"), ("preflight", "done"), ("validate", "begun"), ("validate", "done"),
    ]  # fmt: skip
    assert lock.read(lab.folder()) is None
    (place,) = (lab.path / "artifacts").iterdir()
    assert (place / "junit.xml").exists()
    assert "devenv.lab.stage" not in (place / "metadata.json").read_text()


def test_after_kill_9_in_a_long_module_the_next_run_stops_the_module_and_succeeds(lab: Lab) -> None:
    run = working(lab)
    before = workers(lab)
    run.kill()
    run.wait()
    assert set(workers(lab)) == set(before), "the test would prove nothing: killing ansible ended its module too"
    code, text = lab.run(lab.playbook(PREFLIGHT, TAIL))
    assert code == 0, text
    assert workers(lab) == []
    assert "was killed" in text
    assert lock.read(lab.folder()) is None
    killed = runs.folders(lab.folder())[0]
    assert json.loads((killed / "failure.json").read_text())["reason"] == "interrupted"
    stages = json.loads((killed / "summary.json").read_text())["stages"]
    assert [(stage["name"], stage["result"]) for stage in stages] == [("preflight", "done"), ("prepare", "interrupted")]
    assert lab.last("summary.json")["exit"] == 0


DOWN = "\n- name: down | Remove\n  hosts: localhost\n  gather_facts: false\n  tasks:\n" + "".join(
    f"    - {{name: The {what}, devenv.lab.stage: {{name: down, state: {what}}}}}\n" for what in ("begin", "end")
)


def test_down_right_after_kill_9_removes_the_environment(lab: Lab) -> None:
    run = working(lab)
    run.kill()
    run.wait()
    code, text = lab.run(lab.playbook(DOWN))
    assert code == 0, text
    assert workers(lab) == []
    assert not lab.folder().exists()
    history = sorted((lab.home / "history" / "aio").iterdir())
    assert len(history) == 2
    assert json.loads((history[-1] / "summary.json").read_text())["exit"] == 0
    assert "down | Remove" in (history[-1] / "log.txt").read_text()


def test_down_removes_the_merged_context_from_the_users_kubeconfig(lab: Lab) -> None:
    assert lab.run(lab.playbook(PREFLIGHT, TAIL))[0] == 0
    merged, users = lab.folder() / "clusters" / "main" / "kubeconfig", lab.path / "config"
    merged.parent.mkdir(parents=True)
    merged.write_text(yaml.safe_dump({"contexts": [{"name": "devenv-aio", "context": {}}]}))
    users.write_text(yaml.safe_dump({"contexts": [{"name": "work", "context": {}}]}))
    kubeconfig_merge.merge([merged], {"KUBECONFIG": str(users)})
    assert "devenv-aio" in users.read_text()
    code, text = lab.run(lab.playbook(DOWN), "--check")
    assert code == 0, text
    assert "devenv-aio" in users.read_text()
    # From a shell with another KUBECONFIG.
    code, text = lab.run(lab.playbook(DOWN), env={"HOME": str(lab.path), "KUBECONFIG": ""})
    assert code == 0, text
    assert [context["name"] for context in yaml.safe_load(users.read_text())["contexts"]] == ["work"]
    assert not lab.folder().exists()


def test_after_kill_9_of_a_run_without_callback_the_next_run_stops_its_workers(lab: Lab) -> None:
    """Without the callback no process has a marker; only the lock identifies them."""
    (lab.path / "empty.cfg").write_text("")
    bare = {
        "ANSIBLE_CONFIG": str(lab.path / "empty.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / "collections"),
    }
    run = working(lab, env=bare)
    run.kill()
    run.wait()
    code, text = lab.run(lab.playbook(PREFLIGHT, TAIL), env=bare)
    assert code == 0, text
    assert workers(lab) == []


def test_a_run_whose_command_was_killed_is_stopped_by_the_next_run(lab: Lab) -> None:
    owner = subprocess.Popen(["sleep", "60"])
    try:
        process = processes.read_process(owner.pid)
        assert process is not None
        run = working(lab, env={"DEVENV_OWNER": f"{owner.pid}:{process.start}", "DEVENV_RUN": "owned1"})
        assert (lock.read(lab.folder()) or lock.holder_of(os.getpid(), "", "")).run_id == "owned1"
    finally:
        owner.kill()
        owner.wait()
    code, text = lab.run(lab.playbook(PREFLIGHT, TAIL))
    assert code == 0, text
    assert run.wait(timeout=30) != 0
    assert workers(lab) == []


def test_ctrl_c_keeps_the_state_and_leaves_no_process_and_no_lock(lab: Lab) -> None:
    run = working(lab)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=20)
    assert run.returncode not in (0, None)
    assert workers(lab) == []
    assert lock.read(lab.folder()) is None
    assert lab.last("failure.json")["reason"] == "interrupted"
    assert lab.last("summary.json")["exit"] == 130
    assert lab.last("summary.json")["stages"][-1]["result"] == "interrupted"
    assert (lab.folder() / "profile.yml").exists()


def test_a_second_run_fails_with_the_holder_and_the_first_continues(lab: Lab) -> None:
    run = working(lab)
    code, text = lab.run(lab.playbook(PREFLIGHT, TAIL))
    assert code != 0
    assert f"process {run.pid}" in text
    assert "holds the environment aio" in text
    code, text = lab.run(lab.playbook(PREFLIGHT, TAIL), "--check")
    assert code != 0
    assert "holds the environment aio" in text
    assert run.poll() is None
    assert workers(lab)
    holder = lock.read(lab.folder())
    assert holder is not None
    assert holder.pid == run.pid


def test_runs_of_two_environments_do_not_affect_each_other(lab: Lab) -> None:
    run = working(lab)
    code, text = lab.run(lab.playbook(PREFLIGHT, TAIL), inventory=lab.inventory("other"))
    assert code == 0, text
    assert run.poll() is None
    assert workers(lab)
    assert state.environments(lab.home) == ["aio", "other"]


def fails(stage: str, result: str = '{msg: "bad TOKEN"}') -> str:
    return f"""
- name: {stage} | Fail
  hosts: localhost
  gather_facts: false
  tasks:
    - {{name: Begin the stage, devenv.lab.stage: {{name: {stage}}}}}
    - name: Fail
      ansible.builtin.fail: {result.replace("TOKEN", TOKEN)}
"""


def test_a_failed_run_releases_the_lock_and_records_stage_task_and_line(lab: Lab) -> None:
    code, text = lab.run(lab.playbook(PREFLIGHT, fails("provision"), TAIL))
    assert code == 2, text
    assert lock.read(lab.folder()) is None
    failure = lab.last("failure.json")
    assert (failure["stage"], failure["reason"], failure["exit"], failure["host"], failure["task"]) == (
        "provision", "provision_failed", 3, "localhost", "Fail",
    )  # fmt: skip
    path, line = failure["file"].rsplit(":", 1)
    assert "name: Fail" in Path(path).read_text().splitlines()[int(line) - 1]
    everything = "".join(
        path.read_text() for path in lab.folder().rglob("*") if path.is_file() and "ssh" not in path.parts
    )
    assert redact.find(f"bad {TOKEN}") == ["bootstrap token"]
    assert redact.find(everything) == []
    assert runs.ledger(lab.folder())[-1]["result"] == "failed"


def with_nodes(lab: Lab) -> None:
    """Add nodes to the environment, none of which is reachable."""
    assert lab.run(lab.playbook(PREFLIGHT, TAIL))[0] == 0
    plan = network_plan.make(resolve("aio"), {"ipv4": "127.77.0.0/24"})
    state.write_network(lab.folder(), {**plan, "bridge": "podman77"})


def test_a_failed_run_gathers_an_archive_and_copies_it_to_the_artifacts(lab: Lab) -> None:
    with_nodes(lab)
    code, text = lab.run(
        lab.playbook(PREFLIGHT, fails("provision"), TAIL), "-e", f"devenv_artifacts={lab.path}/artifacts"
    )
    assert code == 2, text
    archive = runs.folders(lab.folder())[-1] / "gather.tar.gz"
    assert f"gathered: {archive}" in text
    assert lab.last("failure.json")["gathered"] == str(archive)
    with tarfile.open(archive) as tar:
        names = [name.partition("/")[2] for name in tar.getnames()]
        index = tar.extractfile(f"{tar.getnames()[0].partition('/')[0]}/index.txt")
        assert index is not None
        assert "nodes/master-0: 0 files" in index.read().decode()
    assert f"runs/{archive.parent.name}/failure.json" in names
    assert lock.read(lab.folder()) is None
    (copy,) = (lab.path / "artifacts").glob("*/gather.tar.gz")
    assert copy.read_bytes() == archive.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_during_gather_keeps_the_recorded_failure(lab: Lab) -> None:
    with_nodes(lab)
    programs, started = lab.path / "bin", lab.path / "working"
    programs.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(f"#!/bin/sh\ntouch {started}\nexec sleep 60 # {started}\n")
    ssh.chmod(0o755)
    run = lab.start(lab.playbook(PREFLIGHT, fails("provision"), TAIL), env={"PATH": f"{programs}:{os.environ['PATH']}"})
    until(started.exists)
    run.send_signal(signal.SIGINT)
    text, _ = run.communicate(timeout=30)
    assert run.returncode == 2, text
    assert "not gathered" in text
    failure = lab.last("failure.json")
    assert (failure["reason"], "gather_trouble" in failure) == ("provision_failed", True)
    assert lock.read(lab.folder()) is None
    assert list(lab.folder().rglob("gather.tar.gz")) == []


@pytest.mark.parametrize(
    ("plays", "words"),
    [
        ((PREFLIGHT, fails("provision")), ("-e", "devenv_gather=false")),
        ((fails("preflight"),), ()),
        ((fails("validate"),), ()),
        ((PREFLIGHT, fails("provision")), ("--check",)),
    ],
    ids=["disabled", "nothing changed", "read-only stage", "check mode"],
)
def test_a_failed_run_gathers_nothing_if_disabled_or_unchanged(
    lab: Lab, plays: tuple[str, ...], words: tuple[str, ...]
) -> None:
    with_nodes(lab)
    code, text = lab.run(lab.playbook(*plays), *words)
    assert code == 2, text
    assert "gathered" not in text
    assert list(lab.folder().rglob("gather.tar.gz")) == []


def test_a_failed_preflight_leaves_only_its_log(lab: Lab) -> None:
    code, text = lab.run(lab.playbook(fails("preflight"), TAIL))
    assert code == 2, text
    assert list((lab.home / "environments").iterdir()) == []
    (place,) = (lab.home / "history" / "aio").iterdir()
    assert json.loads((place / "failure.json").read_text())["exit"] == 9


def test_a_failed_preflight_keeps_an_existing_environment(lab: Lab) -> None:
    assert lab.run(lab.playbook(PREFLIGHT, fails("provision")))[0] == 2
    assert lab.run(lab.playbook(fails("preflight")))[0] == 2
    assert lab.folder().is_dir()
    assert lock.read(lab.folder()) is None


def test_a_profile_that_cannot_be_applied_is_refused_with_the_difference(lab: Lab) -> None:
    assert lab.run(lab.playbook(PREFLIGHT, fails("provision")))[0] == 2
    before = {path: path.read_bytes() for path in lab.folder().rglob("*") if path.is_file()}
    code, text = lab.run(
        lab.playbook(PREFLIGHT, TAIL),
        "-e",
        f"devenv_artifacts={lab.path}/a",
        inventory=lab.inventory("aio", "aio-dualstack-static"),
    )
    assert code == 2
    assert "'ipv4' -> 'dualstack'" in text.replace("\n", " ")
    assert {path: path.read_bytes() for path in lab.folder().rglob("*") if path.is_file()} == before
    (place,) = (lab.path / "a").iterdir()
    assert json.loads((place / "failure.json").read_text())["exit"] == 14


def test_a_strategy_that_breaks_the_order_is_refused(lab: Lab) -> None:
    code, text = lab.run(lab.playbook(PREFLIGHT, TAIL), env={"ANSIBLE_STRATEGY": "free"})
    assert code != 0
    assert "the strategy free breaks the order of tasks" in text
    assert not lab.folder().exists()


def test_a_run_without_a_profile_fails_and_creates_nothing(lab: Lab) -> None:
    empty = lab.path / "empty.yml"
    empty.write_text("all: {}\n")
    code, text = lab.run(lab.playbook(PREFLIGHT, TAIL), inventory=empty)
    assert code == 2
    assert "no profile was given" in text
    assert not lab.home.exists()


def test_check_mode_writes_nothing(lab: Lab) -> None:
    code, text = lab.run(lab.playbook(PREFLIGHT, TAIL), "--check", "--diff")
    assert code == 0, text
    assert not lab.home.exists()


def test_a_run_without_a_stage_leaves_nothing(lab: Lab) -> None:
    play = """
- name: Something else
  hosts: localhost
  gather_facts: false
  tasks:
    - {name: Show a message, ansible.builtin.debug: {}}
"""
    code, text = lab.run(lab.playbook(play), env={"ARTIFACT_DIR": str(lab.path / "a")})
    assert code == 0, text
    assert not lab.home.exists()
    assert not (lab.path / "a").exists()


@pytest.mark.parametrize(("owner", "unchanged", "prints"), [("", True, True), ("1:1", True, False), ("", False, False)])
def test_cluster_prints_the_next_steps_of_a_proven_environment_unless_the_command_does(
    lab: Lab, owner: str, unchanged: bool, prints: bool
) -> None:
    last = lab.path / "last.yml"
    last.write_text(yaml.safe_dump(yaml.safe_load((CHECKOUT / "playbooks" / "cluster.yml").read_text())[-1:]))
    env = {"DEVENV_OWNER": owner} if owner else {}
    compared = json.dumps({"__convergence": {"unchanged": unchanged}})
    code, text = lab.run(last, "-e", f"devenv_state={lab.folder()}", "-e", compared, env=env)
    assert code == 0, text
    assert (f"export KUBECONFIG={lab.folder()}/clusters/main/kubeconfig" in text) is prints
    assert ("-e devenv_name=aio" in text) is prints
