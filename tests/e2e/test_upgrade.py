"""From one minor version of Kubernetes to the next, for real: killed on the way, asked from outside all the time.

The older version's bundle is built when there is none, which takes a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ha
from support.commands import Typed
from support.seen import inside

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
VERSIONS = yaml.safe_load((CONFIGS / "versions.yml").read_text())
NEW = VERSIONS["default"]
# The newest of the minor version before.
OLD = max(
    (one for one in VERSIONS["kubernetes"] if one.split(".")[1] == str(int(NEW.split(".")[1]) - 1)),
    key=lambda one: int(one.split(".")[2]),
)
MASTERS = ["master-0", "master-1", "master-2"]
MARK = "devenv.lab/upgrade"


@pytest.fixture(scope="module", autouse=True)
def bundle(user: Typed) -> None:
    user.devenv("bundle", "build", OLD, seconds=3600)


@pytest.fixture
def made(user: Typed, new_name: Callable[[str], str]) -> Iterator[Callable[[str], str]]:
    """Makes an environment of the older version, with a Deployment that has somewhere to go."""
    names = []

    def make(profile: str) -> str:
        name = new_name("upgrade")
        names.append(name)
        user.devenv("up", "--profile", profile, "--name", name, "--set", f"kubernetes.version={OLD}")
        image = f"devenv.lab/probe:{VERSIONS['probe']}"
        user.kubectl(name, "create", "deployment", "web", f"--image={image}", "--replicas=2")
        user.kubectl(name, "create", "configmap", "kept", "--from-literal=a=b")
        user.kubectl(name, "rollout", "status", "deployment/web", "--timeout=120s")
        return name

    yield make
    for name in names:
        user.devenv("down", "--name", name)


def items(user: Typed, name: str, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(user.kubectl(name, "get", *words, "-o", "json").stdout)["items"]
    return found


def kubelets(user: Typed, name: str) -> dict[str, str]:
    return {one["metadata"]["name"]: one["status"]["nodeInfo"]["kubeletVersion"] for one in items(user, name, "nodes")}


def is_whole(user: Typed, name: str, nodes: list[str], masters: list[str]) -> None:
    """All of it has the new version, asked by programs that are not ours."""
    assert kubelets(user, name) == dict.fromkeys(nodes, f"v{NEW}")
    told = json.loads(user.kubectl(name, "version", "-o", "json").stdout)
    assert told["serverVersion"]["gitVersion"] == f"v{NEW}"
    for item in items(user, name, "nodes"):
        assert not item["spec"].get("unschedulable")
        assert MARK not in item["metadata"]["annotations"]
    images = {
        (pod["metadata"].get("labels", {}).get("component") or pod["metadata"]["labels"].get("k8s-app"), one["image"])
        for pod in items(user, name, "pods", "-n", "kube-system")
        for one in pod["spec"]["containers"]
    }
    wanted = VERSIONS["kubernetes"][NEW]
    assert {image for part, image in images if part == "etcd"} == {f"registry.k8s.io/etcd:{wanted['etcd_image']}"}
    assert {image for part, image in images if part == "kube-dns"} == {
        f"registry.k8s.io/coredns/coredns:v{wanted['coredns']}"
    }
    for part in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"):
        assert {image for name_, image in images if name_ == part} == {f"registry.k8s.io/{part}:v{NEW}"}
    for node in nodes:
        container = f"{name}-{node}"
        assert inside(container, "kubectl", "version", "--client", "-o", "json").count(f'"v{NEW}"') == 1
        assert OLD not in inside(container, "ctr", "-n", "k8s.io", "images", "ls", "-q")
        assert wanted["pause"] in inside(container, "cat", "/etc/containerd/config.toml")
        assert inside(
            container, "sh", "-c", "ls -A /etc/kubernetes/tmp /var/lib/devenv/upgrade 2>/dev/null || :"
        ).strip() in (
            "",
            "/etc/kubernetes/tmp:",
        )
    assert ha.wait_for_members(name, masters) == dict.fromkeys(masters, True)
    for master in masters:
        rows = json.loads(ha.etcdctl(f"{name}-{master}", "endpoint", "status", "-w=json").stdout)
        assert [row["Status"]["version"] for row in rows] == [wanted["etcd"]]
    user.kubectl(name, "rollout", "status", "deployment/web", "--timeout=120s")
    assert json.loads(user.kubectl(name, "get", "configmap", "kept", "-o", "json").stdout)["data"] == {"a": "b"}
    profile = yaml.safe_load((ha.state(user, name) / "profile.yml").read_text())
    assert profile["kubernetes"]["version"] == NEW
    assert user.objects("up", "--name", name, "--full")[-1]["changed"] == 0


def kill_when(user: Typed, name: str, moment: Callable[[], bool], seconds: float = 600) -> None:
    """Kill an upgrade at a moment, with everything that it runs here."""
    child = user.start("devenv", "upgrade", "--kubernetes", NEW, "--name", name, "--json")
    deadline = time.monotonic() + seconds
    while not moment():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def is_closed(user: Typed, name: str, node: str) -> bool:
    shown = user.kubectl(name, "get", "node", node, "-o", "json", code=None)
    return shown.returncode == 0 and bool(json.loads(shown.stdout)["spec"].get("unschedulable"))


def test_one_node_killed_twice(user: Typed, made: Callable[[str], str]) -> None:
    name = made("aio")
    plan = user.data("upgrade", "--kubernetes", NEW, "--plan", "--name", name)
    assert [row["node"] for row in plan["nodes"]] == ["master-0"]
    log = ["podman", "exec", f"{name}-master-0", "grep", "-q", "Preparing for", "/var/log/devenv/kubeadm-upgrade.log"]
    kill_when(user, name, lambda: subprocess.run(log, check=False, capture_output=True).returncode == 0)
    refused = user.devenv("up", "--name", name, code=14)
    assert f"devenv upgrade -n {name} --kubernetes {NEW} goes on" in refused.stderr
    kill_when(user, name, lambda: is_closed(user, name, "master-0"))
    user.devenv("up", "--profile", "aio", "--name", name, code=14)
    assert user.data("upgrade", "--kubernetes", NEW, "--plan", "--name", name)["begun"] is True
    user.devenv("upgrade", "--kubernetes", NEW, "--name", name)
    is_whole(user, name, ["master-0"], ["master-0"])
    user.devenv("upgrade", "--kubernetes", NEW, "--name", name, code=14)
    user.devenv("stop", "--name", name)
    user.devenv("start", "--name", name)
    assert user.objects("up", "--name", name, "--full")[-1]["changed"] == 0


def test_three_masters_answer_all_the_time(user: Typed, made: Callable[[str], str], tmp_path: Path) -> None:
    """With plain Ansible. A node that somebody else closed stays closed; a worker made later has the new version."""
    name = made("ha")
    user.kubectl(name, "cordon", "worker-1")
    (address,) = ha.virtual(user, name)
    with ha.Asker(address, ha.authority(user, name, tmp_path), ha.client(user, name, tmp_path)) as asker:
        user.playbook("upgrade", "-e", f"devenv_name={name}", "-e", f"devenv_kubernetes_version={NEW}", seconds=1800)
    times = [at for at, _status in asker.failures()]
    assert len(asker.answers) > 100
    # What was on its way to an API server that ended may be lost; the next one answers.
    assert all(later - sooner > 1 for sooner, later in zip(times, times[2:], strict=False)), asker.failures()
    assert is_closed(user, name, "worker-1")
    user.kubectl(name, "uncordon", "worker-1")
    is_whole(user, name, [*MASTERS, "worker-0", "worker-1"], MASTERS)
    user.devenv("node", "add", "--name", name)
    assert kubelets(user, name)["worker-2"] == f"v{NEW}"
