"""kill -9 of the making of three masters and two workers, in each stage, at random moments: the next `up` ends well.

CHAOS_KILLS says how many (12 by default), CHAOS_SEED repeats the moments of an earlier run.
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

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

PROFILE = "ha"
MASTERS = ["master-0", "master-1", "master-2"]
KILLS = int(os.environ.get("CHAOS_KILLS", "12"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))
# The longest stage has the most moments at which something may be half-made.
STAGES = ("provision", "prepare", "kubernetes", "kubernetes", "kubernetes", "labels", "validate")


@pytest.fixture(scope="module")
def model(user: Typed, new_name: Callable[[str], str]) -> tuple[dict[str, float], dict[str, Any]]:
    """How long each stage takes here, and what a build that nobody disturbs ends in."""
    name = new_name("model")
    user.devenv("up", "--profile", PROFILE, "--name", name)
    summary = json.loads((max((ha.state(user, name) / "runs").iterdir()) / "summary.json").read_text())
    result = seen(user, name)
    user.devenv("down", "--name", name)
    return {stage["name"]: stage["seconds"] for stage in summary["stages"]}, result


def seen(user: Typed, name: str) -> dict[str, Any]:
    """What two builds of one profile have in common: nodes with versions, labels, taints and pod ranges, the pods of
    the system, etcd's members.
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
    """Kill an `up` ``delay`` s after the begin of ``stage``. False when it had ended before."""
    child = user.start("devenv", "up", "--profile", PROFILE, "--name", name, "--json")
    assert child.stdout is not None
    for line in child.stdout:
        told = json.loads(line)
        if told.get("stage") == stage and told.get("state") == "begin":
            break
    else:
        raise AssertionError(f"ended before {stage}: {child.stderr and child.stderr.read()[-2000:]}")
    time.sleep(delay)
    if child.poll() is not None:
        return False
    lock = json.loads((ha.state(user, name) / "lock").read_text())
    for pid in {child.pid, *marked(lock["run_id"])}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    child.wait(timeout=10)
    return True


def marked(run: str) -> list[int]:
    """Half of the time the command alone dies, half of the time all of its processes on this host do as well."""
    if random.Random(run).random() < 0.5:
        return []
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"DEVENV_RUN={run}".encode() in (folder / "environ").read_bytes().split(b"\0")
            # What runs in a node is not a process of the command.
            host = os.readlink(folder / "ns" / "pid") == os.readlink("/proc/self/ns/pid")
            monitor = (folder / "comm").read_text().strip() == "conmon"
        except OSError:
            continue
        if ours and host and not monitor:
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("number", range(KILLS))
def test_the_next_up_ends_where_an_undisturbed_one_does(
    user: Typed, new_name: Callable[[str], str], model: tuple[dict[str, float], dict[str, Any]], number: int
) -> None:
    seconds, result = model
    moments = random.Random(SEED + number)
    stage = STAGES[number % len(STAGES)]
    name = new_name("chaos")
    try:
        tries = 0
        while True:
            delay = moments.uniform(0, 0.9 * seconds[stage])
            print(f"seed {SEED}, kill {number} in {stage} after {delay:.1f} s")
            if killed(user, name, stage, delay):
                break
            tries += 1
            assert tries < 5
            user.devenv("down", "--name", name)
        last = user.objects("up", "--profile", PROFILE, "--name", name)[-1]
        assert last["exit"] == 0
        assert seen(user, name) == result
        assert user.objects("up", "--name", name)[-1]["changed"] == 0
        user.devenv("validate", "--name", name)
    finally:
        user.devenv("down", "--name", name)
