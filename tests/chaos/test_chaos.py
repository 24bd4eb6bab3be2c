"""kill -9 while three masters and two workers are created, in each stage, at random moments: the next `up` succeeds.

CHAOS_KILLS sets the number of kills (12 by default, at least one in each stage), CHAOS_SEED repeats the moments of an
earlier run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ha
from support.commands import Typed
from support.stages import stages

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

PROFILE = "ha"
MASTERS = ["master-0", "master-1", "master-2"]
STAGES = stages()
# After one in each stage, the kills are in the longest one: it has the most moments with something incomplete.
LONGEST = "kubernetes"
KILLS = int(os.environ.get("CHAOS_KILLS") or max(12, len(STAGES)))
SEED = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))


@pytest.fixture(scope="module")
def model(user: Typed, new_name: Callable[[str], str]) -> tuple[dict[str, float], dict[str, Any]]:
    """Build a cluster without disturbance; return the seconds of each stage and the resulting state."""
    name = new_name("model")
    user.devenv("up", "--profile", PROFILE, "--name", name)
    summary = json.loads((max((ha.state(user, name) / "runs").iterdir()) / "summary.json").read_text())
    result = seen(user, name)
    user.devenv("down", "--name", name)
    return {stage["name"]: stage["seconds"] for stage in summary["stages"]}, result


def seen(user: Typed, name: str) -> dict[str, Any]:
    """Return what two builds of one profile have in common: nodes with versions, labels, taints and pod ranges, the
    pods of kube-system, the etcd members.
    """

    def get(*words: str) -> Any:
        return json.loads(user.kubectl(name, "get", *words, "-o", "json").stdout)["items"]

    nodes = {
        node["metadata"]["name"]: {
            "version": node["status"]["nodeInfo"]["kubeletVersion"],
            "labels": sorted(node["metadata"]["labels"].items()),
            "taints": node["spec"].get("taints"),
            "ranges": node["spec"]["podCIDRs"],
            "ready": [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"],
        }
        for node in get("nodes")
    }
    pods = sorted(
        (pod["metadata"].get("labels", {}).get("component") or pod["metadata"].get("labels", {}).get("k8s-app", ""))
        + (" " + pod["spec"]["nodeName"] if pod["spec"].get("hostNetwork") else "")
        for pod in get("pods", "-n", "kube-system")
    )
    return {"nodes": nodes, "pods": pods, "members": ha.wait_for_members(name, MASTERS, 30)}


def killed(user: Typed, name: str, stage: str, delay: float) -> bool:
    """Kill an `up` ``delay`` s after the start of ``stage``; return False if it had already ended."""
    child = user.start("devenv", "up", "--profile", PROFILE, "--name", name, "--json")
    assert child.stdout is not None
    for line in child.stdout:
        event = json.loads(line)
        if event.get("stage") == stage and event.get("state") == "begin":
            break
    else:
        raise AssertionError(f"ended before {stage}: {child.stderr and child.stderr.read()[-2000:]}")
    time.sleep(delay)
    if child.poll() is not None:
        return False
    # The first stage takes the lock a moment after its begin.
    lock = ha.state(user, name) / "lock"
    run = json.loads(lock.read_text())["run_id"] if lock.exists() else ""
    for pid in {child.pid, *(marked(run) if run else ())}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    child.wait(timeout=10)
    return True


def marked(run: str) -> list[int]:
    """Return the processes of the run on this host that are killed as well: none in half of the cases, else all."""
    if random.Random(run).random() < 0.5:
        return []
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked_run = f"DEVENV_RUN={run}".encode() in (folder / "environ").read_bytes().split(b"\0")
            # Processes inside a node do not belong to the command.
            host = os.readlink(folder / "ns" / "pid") == os.readlink("/proc/self/ns/pid")
            monitor = (folder / "comm").read_text().strip() == "conmon"
        except OSError:
            continue
        if marked_run and host and not monitor:
            pids.append(int(folder.name))
    return pids


@pytest.mark.parametrize("number", range(KILLS))
def test_up_after_a_kill_gives_the_same_cluster_as_an_undisturbed_one(
    user: Typed, new_name: Callable[[str], str], model: tuple[dict[str, float], dict[str, Any]], number: int
) -> None:
    seconds, result = model
    moments = random.Random(SEED + number)
    stage = STAGES[number] if number < len(STAGES) else LONGEST
    name = new_name("chaos")
    try:
        attempts = 0
        while True:
            delay = moments.uniform(0, 0.9 * seconds[stage])
            print(f"seed {SEED}, kill {number} in {stage} after {delay:.1f} s")
            if killed(user, name, stage, delay):
                break
            attempts += 1
            assert attempts < 5
            user.devenv("down", "--name", name)
        last = user.objects("up", "--profile", PROFILE, "--name", name)[-1]
        assert last["exit"] == 0
        assert seen(user, name) == result
        assert user.objects("up", "--name", name)[-1]["changed"] == 0
        user.devenv("validate", "--name", name)
    finally:
        user.devenv("down", "--name", name)
