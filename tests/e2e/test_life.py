"""Nodes are added, removed, lost and recreated; stop, host reboot, new certificates, another address."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ha, images
from support.commands import Typed, addresses
from support.seen import inside, untouched

pytestmark = pytest.mark.cluster

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
VERSION = str(yaml.safe_load((CONFIGS / "versions.yml").read_text())["default"])

# Its first process ignores SIGTERM, so a drain takes the whole grace period.
STUBBORN: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "stubborn"},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "stubborn"}},
        "template": {
            "metadata": {"labels": {"app": "stubborn"}},
            "spec": {
                "nodeSelector": {"node-role.kubernetes.io/worker": ""},
                "containers": [{"name": "main", "command": ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]}],
            },
        },
    },
}


@pytest.fixture(scope="module")
def lab(user: Typed, new_name: Callable[[str], str]) -> Iterator[str]:
    """An environment that starts with one master and two workers."""
    name = new_name("life")
    user.devenv("up", "--profile", "master-2pipe", "--name", name)
    yield name
    user.devenv("down", "--name", name)


def ready(user: Typed, name: str) -> dict[str, bool]:
    """Return whether each Node object is Ready, by name, from kubectl."""
    items = json.loads(user.kubectl(name, "get", "nodes", "-o", "json").stdout)["items"]
    return {
        item["metadata"]["name"]: any(
            c["type"] == "Ready" and c["status"] == "True" for c in item["status"]["conditions"]
        )
        for item in items
    }


def containers(name: str) -> dict[str, str]:
    """Return the ID of each container of an environment, by node."""
    shown = subprocess.run(
        ["podman", "ps", "--all", f"--filter=label=devenv.environment={name}", "--format=json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {row["Labels"]["devenv.node"]: row["Id"] for row in json.loads(shown.stdout or "[]") or []}


def test_labels_are_pruned_with_the_profile_and_those_of_others_stay(user: Typed, lab: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yml"
    changes = {"labels": {"ours": "a"}, "taints": ["ours=a:PreferNoSchedule"]}
    mine.write_text(yaml.safe_dump({"extends": "master-2pipe", "nodes": {"worker-0": changes}}))
    user.kubectl(lab, "label", "node", "worker-0", "theirs=yes")
    user.kubectl(lab, "taint", "node", "worker-0", "theirs=yes:PreferNoSchedule")
    assert user.objects("up", "--name", lab, "--profile", str(mine))[-1]["changed"] == 1
    node = json.loads(user.kubectl(lab, "get", "node", "worker-0", "-o", "json").stdout)
    assert node["metadata"]["labels"]["ours"] == "a"
    assert {taint["key"] for taint in node["spec"]["taints"]} == {"ours", "theirs"}
    for words in (["--check"], []):
        assert user.objects("up", "--name", lab, "--profile", "master-2pipe", *words)[-1]["changed"] == 1
    node = json.loads(user.kubectl(lab, "get", "node", "worker-0", "-o", "json").stdout)
    assert "ours" not in node["metadata"]["labels"]
    assert (node["metadata"]["labels"]["theirs"], node["metadata"]["labels"]["pipe"]) == ("yes", "true")
    assert {taint["key"] for taint in node["spec"]["taints"]} == {"theirs"}
    assert user.changes("up", "--name", lab, "--full") == []


def test_a_worker_with_a_stubborn_pod_is_removed(user: Typed, lab: str, tmp_path: Path) -> None:
    image = inside(f"{lab}-worker-0", "sh", "-c", "ctr -n k8s.io images ls -q | grep devenv.lab/probe").split()[0]
    STUBBORN["spec"]["template"]["spec"]["containers"][0]["image"] = image
    path = tmp_path / "stubborn.yml"
    path.write_text(yaml.safe_dump(STUBBORN))
    user.kubectl(lab, "apply", "-f", str(path))
    user.kubectl(lab, "rollout", "status", "deployment/stubborn", "--timeout=120s")
    pod = json.loads(user.kubectl(lab, "get", "pods", "-l", "app=stubborn", "-o", "json").stdout)["items"][0]
    leaves = pod["spec"]["nodeName"]
    stays = "worker-1" if leaves == "worker-0" else "worker-0"
    before = containers(lab)
    user.devenv("node", "remove", leaves, "--name", lab)
    assert ready(user, lab) == {"master-0": True, stays: True}
    assert containers(lab) == {node: before[node] for node in ("master-0", stays)}
    assert not (user.home / "environments" / lab / "nodes" / leaves).exists()
    assert leaves not in inside(f"{lab}-master-0", "cat", "/etc/hosts")
    user.kubectl(lab, "rollout", "status", "deployment/stubborn", "--timeout=120s")
    user.kubectl(lab, "delete", "deployment", "stubborn", "--wait=false")
    assert user.changes("up", "--name", lab, "--full") == []
    # The number and its address are free again.
    user.devenv("node", "add", "--name", lab, "--set", "labels.pipe=true")
    assert ready(user, lab) == {"master-0": True, "worker-0": True, "worker-1": True}


# On the disk of worker-1, and on no disk of a node.
VOLUMES = """
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-here}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  hostPath: {path: /var/lib/devenv/here}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [worker-1]}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: here}
spec:
  volumeName: e2e-here
  storageClassName: ""
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Mi}}
"""


def test_a_dead_and_a_damaged_worker_are_recreated(user: Typed, lab: str, tmp_path: Path) -> None:
    """The replaced one has the images that were loaded before, and its volume is released."""
    before, where = containers(lab), addresses(user, lab)
    with images.built(f"shop/{lab}:1") as image:
        user.devenv("image", "load", image, "--name", lab)
    (tmp_path / "volumes.yml").write_text(VOLUMES)
    user.kubectl(lab, "apply", "-f", str(tmp_path / "volumes.yml"))
    user.kubectl(lab, "wait", "pvc/here", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s")
    subprocess.run(["podman", "rm", "--force", "--time=0", f"{lab}-worker-0"], check=True, capture_output=True)
    user.devenv("up", "--name", lab)
    now = containers(lab)
    assert now["worker-0"] != before["worker-0"]
    assert (now["master-0"], now["worker-1"]) == (before["master-0"], before["worker-1"])
    inside(f"{lab}-worker-1", "sh", "-c", "rm -rf /etc/kubernetes/* /var/lib/kubelet/config.yaml")
    replaced = user.devenv("node", "replace", "worker-1", "--name", lab)
    assert "worker-1: the volume of default/here (e2e-here) is lost" in " ".join(replaced.stderr.split())
    assert containers(lab)["worker-1"] != now["worker-1"]
    assert "e2e-here" not in user.kubectl(lab, "get", "pv", "-o", "name").stdout
    claim = json.loads(user.kubectl(lab, "get", "pvc", "here", "-o", "json").stdout)
    assert (claim["status"]["phase"], claim["spec"].get("volumeName")) == ("Pending", None)
    user.kubectl(lab, "delete", "pvc", "here")
    assert f"docker.io/{image}" in inside(f"{lab}-worker-1", "crictl", "images", "--output=json")
    assert addresses(user, lab) == where
    assert ready(user, lab) == {"master-0": True, "worker-0": True, "worker-1": True}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["node", "remove", "master-0"], 14, "last control plane node"),
        (["node", "replace", "master-0"], 14, "last control plane node"),
        (["node", "remove", "worker-7"], 2, "worker-7"),
        (["node", "add", "worker-1"], 2, "worker-1"),
        (["node", "add", "worker-9"], 2, "worker-2"),
        (["node", "change-address", "master-0"], 14, "worker-0"),
        (["up", "--set", "nodes.master-0=null", "--set", "nodes.master-1={}"], 14, "master-0"),
        (["upgrade", "--kubernetes", VERSION], 14, f"already has Kubernetes {VERSION}"),
        (["upgrade", "--kubernetes", "1.35.4"], 14, "downgrade"),
        (["upgrade", "--kubernetes", "9.0.0"], 2, "9.0.0"),
    ],
)
def test_impossible_changes_are_refused_before_anything_changes(
    user: Typed, lab: str, words: list[str], code: int, message: str
) -> None:
    before = containers(lab), (user.home / "environments" / lab / "profile.yml").read_text()
    refused = user.devenv(*words, "--name", lab, code=code)
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (containers(lab), (user.home / "environments" / lab / "profile.yml").read_text()) == before


@pytest.mark.nightly
def test_the_plan_of_a_patch_release(user: Typed, lab: str) -> None:
    """The stored profile names the previous patch release; a plan does not need its bundle."""
    folder = user.home / "environments" / lab
    major, minor, patch = VERSION.split(".")
    before = f"{major}.{minor}.{int(patch) - 1}"
    kept = (folder / "profile.yml").read_text()
    (folder / "profile.yml").write_text(kept.replace(f"version: {VERSION}", f"version: {before}"))
    state = untouched(user, lab, list(containers(lab)))
    try:
        plan = user.data("upgrade", "--kubernetes", VERSION, "--plan", "--name", lab)
        assert (plan["from"], plan["to"], plan["bundle"], plan["parts"]) == (before, VERSION, True, {})
        assert [(row["node"], row["command"]) for row in plan["nodes"]] == [
            ("master-0", f"kubeadm upgrade apply v{VERSION}"),
            ("worker-0", "kubeadm upgrade node"),
            ("worker-1", "kubeadm upgrade node"),
        ]
        # Check mode runs all plays: kubeadm would run on each of the three nodes, and the profile would be written.
        assert user.objects("upgrade", "--kubernetes", VERSION, "--check", "--name", lab)[-1]["changed"] == 4
        assert untouched(user, lab, list(containers(lab))) == state
        assert not (folder / "upgrade.json").exists()
        subprocess.run(["podman", "stop", "--time=5", f"{lab}-worker-1"], check=True, capture_output=True)
        refused = user.devenv("upgrade", "--kubernetes", VERSION, "--name", lab, code=9)
        assert "worker-1" in refused.stderr
    finally:
        (folder / "profile.yml").write_text(kept)
    user.devenv("start", "--name", lab)


@pytest.mark.nightly
def test_one_master_becomes_three_and_the_first_of_them_dies(user: Typed, lab: str) -> None:
    masters = ["master-0", "master-1", "master-2"]
    user.devenv("node", "remove", "worker-0", "worker-1", "--name", lab)
    user.devenv("node", "add", "master-1", "master-2", "--name", lab)
    assert ha.members(lab, masters) == dict.fromkeys(masters, True)
    subprocess.run(["podman", "rm", "--force", "--time=0", f"{lab}-master-0"], check=True, capture_output=True)
    user.devenv("up", "--name", lab)
    assert ha.members(lab, masters) == dict.fromkeys(masters, True)
    assert ready(user, lab) == dict.fromkeys(masters, True)


@pytest.mark.nightly
def test_an_aio_environment_becomes_ha(user: Typed, environment: str) -> None:
    masters = ["master-0", "master-1", "master-2"]
    user.devenv("up", "--profile", "aio", "--name", environment)
    user.devenv("up", "--profile", "ha", "--name", environment)
    assert ha.members(environment, masters) == dict.fromkeys(masters, True)
    nodes = json.loads(user.kubectl(environment, "get", "nodes", "-o", "json").stdout)["items"]
    tainted = {node["metadata"]["name"] for node in nodes if node["spec"].get("taints")}
    assert (len(nodes), tainted) == (5, set(masters))
    assert all("pipe" not in node["metadata"]["labels"] for node in nodes if node["metadata"]["name"] in masters)
    assert user.changes("up", "--name", environment, "--full") == []


@pytest.mark.nightly
def test_a_lost_cluster_is_created_again_if_the_user_accepts_the_loss(user: Typed, environment: str) -> None:
    user.devenv("up", "--profile", "sno", "--name", environment)
    user.kubectl(environment, "create", "configmap", "mine")
    subprocess.run(["podman", "rm", "--force", "--time=0", f"{environment}-master-0"], check=True, capture_output=True)
    shutil.rmtree(user.home / "environments" / environment / "nodes" / "master-0")
    assert "every object of cluster main" in user.devenv("up", "--name", environment, code=9).stderr
    user.devenv("up", "--name", environment, "--recreate")
    assert ready(user, environment) == {"master-0": True}
    assert "mine" not in user.kubectl(environment, "get", "configmaps", "-o", "name").stdout
    assert user.changes("up", "--name", environment, "--full") == []


def test_everything_is_ready_again_after_a_stop_and_a_reboot(user: Typed, lab: str) -> None:
    """With one master and two workers, or with three masters if the test above has created them."""
    before = containers(lab)
    all_ready, masters = (
        dict.fromkeys(sorted(before), True),
        sorted(node for node in before if node.startswith("master")),
    )
    user.devenv("stop", "--name", lab)
    user.devenv("start", "--name", lab)
    assert ready(user, lab) == all_ready
    bridge = yaml.safe_load((user.home / "environments" / lab / "network.yml").read_text())["bridge"]
    subprocess.run(["podman", "kill", *(f"{lab}-{node}" for node in before)], check=True, capture_output=True)
    subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)
    subprocess.run(["nft", "delete", "table", "inet", f"devenv-{lab}"], check=True, capture_output=True)
    user.devenv("start", "--name", lab)
    assert ready(user, lab) == all_ready
    assert ha.members(lab, masters) == dict.fromkeys(masters, True)
    assert containers(lab) == before
    assert user.changes("up", "--name", lab, "--full") == []


@pytest.mark.nightly
def test_a_lost_quorum_is_reported_and_nothing_is_created(user: Typed, lab: str) -> None:
    user.devenv("node", "remove", "master-0", "--name", lab)
    subprocess.run(["podman", "rm", "--force", "--time=0", f"{lab}-master-1"], check=True, capture_output=True)
    shutil.rmtree(user.home / "environments" / lab / "nodes" / "master-1")
    refused = user.devenv("up", "--name", lab, code=9)
    assert "majority" in refused.stderr
    assert "master-1" in refused.stderr
    assert set(containers(lab)) == {"master-2"}


@pytest.mark.nightly
def test_certificates_and_address_of_a_single_node_change(user: Typed, environment: str) -> None:
    user.devenv("up", "--profile", "sno", "--name", environment)
    container = f"{environment}-master-0"

    def renewable() -> dict[str, str]:
        rows = user.data("certs", "list", "--name", environment)
        return {row["path"]: row["end"] for row in rows if row["path"].startswith("/etc/kubernetes/pki/apiserver")}

    assert user.objects("certs", "renew", "--name", environment, "--within", "30d")[-1]["changed"] == 0
    old = renewable()
    kubeconfig = (user.home / "environments" / environment / "kubeconfig").read_text()
    time.sleep(1)
    user.devenv("certs", "renew", "--name", environment)
    new = renewable()
    assert new.keys() == old.keys() != set()
    assert all(new[path] > old[path] for path in old)
    assert (user.home / "environments" / environment / "kubeconfig").read_text() != kubeconfig
    assert ready(user, environment) == {"master-0": True}

    (former,) = addresses(user, environment)["master-0"]
    address = former.rpartition(".")[0] + ".77"
    user.devenv("node", "change-address", "--address", address, "--name", environment)
    assert addresses(user, environment) == {"master-0": [address]}
    node = json.loads(user.kubectl(environment, "get", "node", "master-0", "-o", "json").stdout)
    assert [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"] == [address]
    links = json.loads(inside(container, "ip", "-json", "-4", "address", "show", "dev", "eth0"))[0]["addr_info"]
    assert [row["local"] for row in links] == [address]
    files = "/etc/kubernetes/manifests /etc/kubernetes/*.conf /var/lib/kubelet/kubeadm-flags.env"
    assert inside(container, "sh", "-c", f"grep -rlwF {former} {files} || true") == ""
    user.devenv("stop", "--name", environment)
    user.devenv("start", "--name", environment)
    assert ready(user, environment) == {"master-0": True}
    assert user.changes("up", "--name", environment, "--full") == []
