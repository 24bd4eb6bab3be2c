"""Runs that are killed, interrupted or concurrent: the next command converges, and no process remains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import Typed, finish

pytestmark = pytest.mark.cluster

# Seconds into each stage, to kill it in the middle. An existing cluster passes the last stages in about a second, and a
# run that has ended cannot be killed.
STAGES = {"provision": 1.5, "prepare": 1.5, "kubernetes": 1.5, "labels": 0.2, "addons": 0.2, "validate": 0.2}


def until_stage(child: subprocess.Popen[str], stage: str) -> None:
    """Read the output of `up --json` until ``stage`` begins; fail if the run ends before."""
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        event = json.loads(line)
        if event["type"] == "stage" and event["stage"] == stage and event["state"] == "begin":
            return
    raise AssertionError(f"ended before {stage}:\n{''.join(lines[-5:])}\n{child.stderr and child.stderr.read()}")


def marked(run: str) -> list[str]:
    """Return the processes of a run, on this host and in its nodes: all have its ID in their environment."""
    processes = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if f"DEVENV_RUN={run}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                processes.append(f"{folder.name} {(folder / 'cmdline').read_text().replace(chr(0), ' ')}")
        except OSError:
            continue
    return processes


def run_of(user: Typed, name: str) -> str:
    """Return the ID of the run that holds the environment's lock."""
    return str(json.loads((user.home / "environments" / name / "lock").read_text())["run_id"])


def existing(name: str) -> list[str]:
    """Return the existing containers and networks of the environment."""
    options = ["--all", "--filter", f"label=devenv.environment={name}", "--format", "{{.Names}}"]
    listed = subprocess.run(["podman", "ps", *options], capture_output=True, text=True, check=True).stdout.split()
    networks = subprocess.run(
        ["podman", "network", "ls", "--filter", f"label=devenv.environment={name}", "--format", "{{.Name}}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return listed + networks


def kill_command(child: subprocess.Popen[str]) -> None:
    """Kill only the command with SIGKILL; its children keep running, as when a CI job is cancelled."""
    os.kill(child.pid, signal.SIGKILL)
    child.wait(timeout=10)


def test_up_converges_after_a_kill_in_each_stage(user: Typed, environment: str) -> None:
    survivors = []
    for stage, seconds in STAGES.items():
        child = user.start("devenv", "up", "--profile", "aio", "--name", environment, "--json")
        until_stage(child, stage)
        run = run_of(user, environment)
        time.sleep(seconds)
        assert child.poll() is None, f"ended within {seconds} s of the stage {stage}"
        kill_command(child)
        survivors.append(marked(run))
        dead = run
    # Not after every kill: a stage without long programs ends with the command.
    assert any(survivors), "no process survived a kill, so the test proves nothing"
    last = user.objects("up", "--name", environment)[-1]
    assert last["exit"] == 0
    assert marked(dead) == []
    assert user.changes("up", "--name", environment, "--full") == []
    user.devenv("validate", "--name", environment)


def test_down_right_after_a_kill_in_a_long_module(user: Typed, environment: str) -> None:
    child = user.start("devenv", "up", "--profile", "aio", "--name", environment, "--json")
    until_stage(child, "kubernetes")
    container = f"{environment}-master-0"
    deadline = time.monotonic() + 60
    while "kubeadm" not in _programs(container) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "kubeadm" in _programs(container)
    run = run_of(user, environment)
    kill_command(child)
    user.devenv("down", "--name", environment)
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        assert marked(run) == []
        assert existing(environment) == []
        time.sleep(5)
    assert not (user.home / "environments" / environment).exists()


def _programs(container: str) -> str:
    done = subprocess.run(["podman", "exec", container, "ps", "-eo", "comm"], capture_output=True, text=True)
    return done.stdout


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_up_keeps_its_state_and_leaves_no_process(
    user: Typed, environment: str, sent: signal.Signals, code: int
) -> None:
    child = user.start("devenv", "up", "--profile", "aio", "--name", environment, "--json")
    until_stage(child, "kubernetes")
    run = run_of(user, environment)
    time.sleep(1)
    os.kill(child.pid, sent)
    finish(child, seconds=60, code=code)
    assert marked(run) == []
    assert (user.home / "environments" / environment / "profile.yml").is_file()
    assert not (user.home / "environments" / environment / "lock").exists()


def test_a_second_up_of_the_same_environment_names_the_running_one(user: Typed, environment: str) -> None:
    child = user.start("devenv", "up", "--profile", "sno", "--name", environment, "--json")
    until_stage(child, "prepare")
    second = user.devenv("up", "--profile", "sno", "--name", environment, code=10)
    assert "devenv up" in second.stderr
    assert "Traceback" not in second.stderr
    assert json.loads(finish(child, seconds=300).stdout.splitlines()[-1])["exit"] == 0


def test_a_run_that_times_out_reports_it_and_destroys_on_request(user: Typed, new_name: Callable[[str], str]) -> None:
    name = new_name("late")
    done = user.devenv(
        "up", "--profile", "aio", "--name", name, "--timeout", "3s", "--on-failure", "destroy", code=None
    )
    assert done.returncode not in (0, 1)
    assert "3 s" in done.stderr or "3s" in done.stderr
    assert existing(name) == []
    assert not (user.home / "environments" / name).exists()
