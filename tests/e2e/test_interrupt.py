"""What is killed, interrupted or run twice: the next command puts it right, and nothing of it works on."""

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

# Seconds into each stage: its middle, not its first breath. A cluster that is there goes through the last ones in about
# a second, and a run that has ended cannot be killed.
STAGES = {"provision": 1.5, "prepare": 1.5, "kubernetes": 1.5, "labels": 0.2, "addons": 0.2, "validate": 0.2}


def until_stage(child: subprocess.Popen[str], stage: str) -> None:
    """Read what `up --json` prints until ``stage`` begins; fails when the run ends before."""
    assert child.stdout is not None
    seen = []
    for line in child.stdout:
        seen.append(line)
        told = json.loads(line)
        if told["type"] == "stage" and told["stage"] == stage and told["state"] == "begin":
            return
    raise AssertionError(f"ended before {stage}:\n{''.join(seen[-5:])}\n{child.stderr and child.stderr.read()}")


def marked(run: str) -> list[str]:
    """Processes that a run has started, on this host and in its nodes: all carry its id."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if f"DEVENV_RUN={run}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(f"{folder.name} {(folder / 'cmdline').read_text().replace(chr(0), ' ')}")
        except OSError:
            continue
    return found


def run_of(user: Typed, name: str) -> str:
    """Id of the run that holds the environment's lock."""
    return str(json.loads((user.home / "environments" / name / "lock").read_text())["run_id"])


def gone(name: str) -> list[str]:
    """Containers and networks of the environment that are there."""
    words = ["--all", "--filter", f"label=devenv.environment={name}", "--format", "{{.Names}}"]
    listed = subprocess.run(["podman", "ps", *words], capture_output=True, text=True, check=True).stdout.split()
    networks = subprocess.run(
        ["podman", "network", "ls", "--filter", f"label=devenv.environment={name}", "--format", "{{.Name}}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return listed + networks


def kill_tree(child: subprocess.Popen[str]) -> None:
    """kill -9 of the command alone: what it started is left to itself, as when a CI job is cancelled."""
    os.kill(child.pid, signal.SIGKILL)
    child.wait(timeout=10)


def test_up_converges_after_a_kill_in_each_stage(user: Typed, environment: str) -> None:
    left = []
    for stage, seconds in STAGES.items():
        child = user.start("devenv", "up", "--profile", "aio", "--name", environment, "--json")
        until_stage(child, stage)
        run = run_of(user, environment)
        time.sleep(seconds)
        assert child.poll() is None, f"ended within {seconds} s of the stage {stage}"
        kill_tree(child)
        left.append(marked(run))
        dead = run
    # Not of each: what a stage does by itself ends with the command.
    assert any(left), "nothing of the killed runs was left: the test shows nothing"
    last = user.objects("up", "--name", environment)[-1]
    assert last["exit"] == 0
    assert marked(dead) == []
    assert user.objects("up", "--name", environment, "--full")[-1]["changed"] == 0
    user.devenv("validate", "--name", environment)


def test_down_at_once_after_a_kill_in_a_long_module(user: Typed, environment: str) -> None:
    child = user.start("devenv", "up", "--profile", "aio", "--name", environment, "--json")
    until_stage(child, "kubernetes")
    container = f"{environment}-master-0"
    deadline = time.monotonic() + 60
    while "kubeadm" not in _programs(container) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "kubeadm" in _programs(container)
    run = run_of(user, environment)
    kill_tree(child)
    user.devenv("down", "--name", environment)
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        assert marked(run) == []
        assert gone(environment) == []
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


def test_a_second_up_of_the_same_environment_says_who_holds_it(user: Typed, environment: str) -> None:
    child = user.start("devenv", "up", "--profile", "sno", "--name", environment, "--json")
    until_stage(child, "prepare")
    second = user.devenv("up", "--profile", "sno", "--name", environment, code=10)
    assert "devenv up" in second.stderr
    assert "Traceback" not in second.stderr
    assert json.loads(finish(child, seconds=300).stdout.splitlines()[-1])["exit"] == 0


def test_a_run_out_of_time_says_what_is_missing_and_destroys_when_asked(
    user: Typed, new_name: Callable[[str], str]
) -> None:
    name = new_name("late")
    done = user.devenv(
        "up", "--profile", "aio", "--name", name, "--timeout", "3s", "--on-failure", "destroy", code=None
    )
    assert done.returncode not in (0, 1)
    assert "3 s" in done.stderr or "3s" in done.stderr
    assert gone(name) == []
    assert not (user.home / "environments" / name).exists()
