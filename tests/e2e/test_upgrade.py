"""Real upgrades from one minor version of Kubernetes to the next: killed half way, with requests all the time.

The bundle of the older version is built if it does not exist, which takes a quarter of an hour.
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
# The newest patch release of the previous minor version.
OLD = max(
    (version for version in VERSIONS["kubernetes"] if version.split(".")[1] == str(int(NEW.split(".")[1]) - 1)),
    key=lambda version: int(version.split(".")[2]),
)
MASTERS = ["master-0", "master-1", "master-2"]
MARK = "devenv.lab/upgrade"


@pytest.fixture(scope="module", autouse=True)
def bundle(user: Typed) -> None:
    user.devenv("bundle", "build", OLD, seconds=3600)


@pytest.fixture
def create(user: Typed, new_name: Callable[[str], str]) -> Iterator[Callable[[str], str]]:
    """Create environments of the older version, with a Deployment of two pods."""
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
    objects: list[dict[str, Any]] = json.loads(user.kubectl(name, "get", *words, "-o", "json").stdout)["items"]
    return objects


def kubelets(user: Typed, name: str) -> dict[str, str]:
    return {
        node["metadata"]["name"]: node["status"]["nodeInfo"]["kubeletVersion"] for node in items(user, name, "nodes")
    }


def check_upgraded(user: Typed, name: str, nodes: list[str], masters: list[str]) -> None:
    """Check with independent programs that everything has the new version."""
    assert kubelets(user, name) == dict.fromkeys(nodes, f"v{NEW}")
    version = json.loads(user.kubectl(name, "version", "-o", "json").stdout)
    assert version["serverVersion"]["gitVersion"] == f"v{NEW}"
    for item in items(user, name, "nodes"):
        assert not item["spec"].get("unschedulable")
        assert MARK not in item["metadata"]["annotations"]
    images = {
        (pod["metadata"].get("labels", {}).get("component") or pod["metadata"]["labels"].get("k8s-app"), part["image"])
        for pod in items(user, name, "pods", "-n", "kube-system")
        for part in pod["spec"]["containers"]
    }
    bundled = VERSIONS["kubernetes"][NEW]
    assert {image for part, image in images if part == "etcd"} == {f"registry.k8s.io/etcd:{bundled['etcd_image']}"}
    assert {image for part, image in images if part == "kube-dns"} == {
        f"registry.k8s.io/coredns/coredns:v{bundled['coredns']}"
    }
    for part in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"):
        assert {image for name_, image in images if name_ == part} == {f"registry.k8s.io/{part}:v{NEW}"}
    for node in nodes:
        container = f"{name}-{node}"
        assert inside(container, "kubectl", "version", "--client", "-o", "json").count(f'"v{NEW}"') == 1
        assert OLD not in inside(container, "ctr", "-n", "k8s.io", "images", "ls", "-q")
        assert bundled["pause"] in inside(container, "cat", "/etc/containerd/config.toml")
        assert inside(
            container, "sh", "-c", "ls -A /etc/kubernetes/tmp /var/lib/devenv/upgrade 2>/dev/null || :"
        ).strip() in (
            "",
            "/etc/kubernetes/tmp:",
        )
    assert ha.wait_for_members(name, masters) == dict.fromkeys(masters, True)
    for master in masters:
        rows = json.loads(ha.etcdctl(f"{name}-{master}", "endpoint", "status", "-w=json").stdout)
        assert [row["Status"]["version"] for row in rows] == [bundled["etcd"]]
    user.kubectl(name, "rollout", "status", "deployment/web", "--timeout=120s")
    assert json.loads(user.kubectl(name, "get", "configmap", "kept", "-o", "json").stdout)["data"] == {"a": "b"}
    profile = yaml.safe_load((ha.state(user, name) / "profile.yml").read_text())
    assert profile["kubernetes"]["version"] == NEW
    assert user.changes("up", "--name", name, "--full") == []


def kill_when(user: Typed, name: str, moment: Callable[[], bool], seconds: float = 600) -> None:
    """Kill an upgrade at a moment, with all its processes on this host."""
    child = user.start("devenv", "upgrade", "--kubernetes", NEW, "--name", name, "--json")
    deadline = time.monotonic() + seconds
    while not moment():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def is_cordoned(user: Typed, name: str, node: str) -> bool:
    shown = user.kubectl(name, "get", "node", node, "-o", "json", code=None)
    return shown.returncode == 0 and bool(json.loads(shown.stdout)["spec"].get("unschedulable"))


def test_an_upgrade_of_one_node_finishes_after_two_kills(user: Typed, create: Callable[[str], str]) -> None:
    name = create("aio")
    plan = user.data("upgrade", "--kubernetes", NEW, "--plan", "--name", name)
    assert [row["node"] for row in plan["nodes"]] == ["master-0"]
    log = ["podman", "exec", f"{name}-master-0", "grep", "-q", "Preparing for", "/var/log/devenv/kubeadm-upgrade.log"]
    kill_when(user, name, lambda: subprocess.run(log, check=False, capture_output=True).returncode == 0)
    refused = user.devenv("up", "--name", name, code=14)
    assert f"devenv upgrade -n {name} --kubernetes {NEW} continues" in refused.stderr
    kill_when(user, name, lambda: is_cordoned(user, name, "master-0"))
    user.devenv("up", "--profile", "aio", "--name", name, code=14)
    assert user.data("upgrade", "--kubernetes", NEW, "--plan", "--name", name)["begun"] is True
    user.devenv("upgrade", "--kubernetes", NEW, "--name", name)
    check_upgraded(user, name, ["master-0"], ["master-0"])
    user.devenv("upgrade", "--kubernetes", NEW, "--name", name, code=14)
    user.devenv("stop", "--name", name)
    user.devenv("start", "--name", name)
    assert user.changes("up", "--name", name, "--full") == []


def test_the_api_answers_during_an_upgrade_of_three_masters(
    user: Typed, create: Callable[[str], str], tmp_path: Path
) -> None:
    """With plain Ansible. A node that somebody cordoned stays cordoned; a worker added later has the new version."""
    name = create("ha")
    user.kubectl(name, "cordon", "worker-1")
    (address,) = ha.virtual(user, name)
    with ha.Poller(address, ha.ca_file(user, name, tmp_path), ha.client(user, name, tmp_path)) as poller:
        user.playbook("upgrade", "-e", f"devenv_name={name}", "-e", f"devenv_kubernetes_version={NEW}", seconds=1800)
    times = [at for at, _status in poller.failures()]
    assert len(poller.answers) > 100
    # A request to an API server that is ending may fail; the next one must succeed.
    assert all(later - sooner > 1 for sooner, later in zip(times, times[2:], strict=False)), poller.failures()
    assert is_cordoned(user, name, "worker-1")
    user.kubectl(name, "uncordon", "worker-1")
    check_upgraded(user, name, [*MASTERS, "worker-0", "worker-1"], MASTERS)
    user.devenv("node", "add", "--name", name)
    assert kubelets(user, name)["worker-2"] == f"v{NEW}"
