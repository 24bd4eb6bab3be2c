"""Volumes and metrics: enabled by the profile, used as an application would, disabled again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support.commands import Typed
from support.seen import inside
from support.waits import until

pytestmark = pytest.mark.cluster

VERSIONS = yaml.safe_load((Path(__file__).resolve().parents[2] / "configs" / "versions.yml").read_text())
IMAGE = f"devenv.lab/probe:{VERSIONS['probe']}"
ON = ("--set", "storage.enabled=true", "--set", "metrics.enabled=true")
OFF = ("--set", "storage.enabled=false", "--set", "metrics.enabled=false")

TEST = """
from devenv.testing import hardware_config

@hardware_config(hardware={"host1": {}}, grouping={"c": {"hosts": ["host1"], "installer": "core_k8s"}})
def test_it(base_config):
    pass
"""
CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 16Mi}}
"""


@pytest.fixture(scope="module")
def name(user: Typed, new_name: Callable[[str], str]) -> Iterator[str]:
    """An aio environment with volumes and metrics."""
    environment = new_name("storage")
    user.devenv("up", "--profile", "sno", "--name", environment, *ON)
    yield environment
    user.devenv("down", "--name", environment)


def pod(user: Typed, name: str, command: str) -> str:
    """Run ``command`` as an ordinary user in a new pod with the claim at /data; return its output."""
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "try",
                "image": IMAGE,
                "command": ["sh", "-euc", command],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }
    overrides = json.dumps({"apiVersion": "v1", "spec": spec})
    user.kubectl(name, "run", "try", "--restart=Never", f"--image={IMAGE}", f"--overrides={overrides}")
    try:
        wait = ("wait", "pod/try", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
        user.kubectl(name, *wait)
        return user.kubectl(name, "logs", "try").stdout
    finally:
        user.kubectl(name, "delete", "pod", "try", "--grace-period=0", "--wait=true")


def folders(name: str) -> list[str]:
    """Return the folders of volumes on the node, from outside the cluster."""
    return inside(f"{name}-master-0", "sh", "-c", "ls /var/lib/devenv/volumes 2>/dev/null || :").split()


def test_data_survive_pods_and_a_restart_of_the_node(user: Typed, name: str, tmp_path: Path) -> None:
    classes = json.loads(user.kubectl(name, "get", "storageclasses", "-o", "json").stdout)["items"]
    assert [row["metadata"]["name"] for row in classes] == ["local-path"]
    file = tmp_path / "claim.yml"
    file.write_text(CLAIM)
    user.kubectl(name, "apply", "-f", str(file))
    pod(user, name, "id -u; echo written > /data/file; sync")
    claim = json.loads(user.kubectl(name, "get", "pvc", "data", "-o", "json").stdout)
    assert (claim["status"]["phase"], claim["spec"]["storageClassName"]) == ("Bound", "local-path")
    # The volume with which `up` tested the class may not be cleared yet.
    until(lambda: [folder.endswith("_default_data") for folder in folders(name)] == [True], seconds=60)
    assert pod(user, name, "cat /data/file") == "written\n"

    user.devenv("stop", "--name", name)
    user.devenv("start", "--name", name)
    assert pod(user, name, "cat /data/file; echo more >> /data/file") == "written\n"


def test_a_second_up_is_a_no_op_and_validates(user: Typed, name: str) -> None:
    assert user.devenv("up", "--name", name).stdout.splitlines()[-1] == "changed=0"
    assert user.objects("up", "--name", name, "--check")[-1]["changed"] == 0


def test_top_shows_nodes_and_pods(user: Typed, name: str) -> None:
    (row,) = user.kubectl(name, "top", "nodes", "--no-headers").stdout.splitlines()
    assert row.split()[0] == "master-0"
    assert row.split()[1].endswith("m")
    assert "etcd-master-0" in user.kubectl(name, "top", "pods", "-n", "kube-system").stdout


def test_the_installer_core_k8s_uses_both(user: Typed, name: str, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --install -p no:cacheprovider\n")
    (tmp_path / "test_it.py").write_text(TEST)
    done = Typed(user.home, tmp_path).run("pytest", f"--devenv-env={name}", code=None)
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.nightly
def test_a_storage_class_of_someone_else_is_not_replaced(user: Typed, name: str) -> None:
    drift = (
        "annotate",
        "storageclass",
        "local-path",
        "--overwrite",
        "storageclass.kubernetes.io/is-default-class=false",
    )
    user.kubectl(name, *drift)
    last = user.objects("up", "--name", name)[-1]
    assert (last["exit"], last["changed"]) == (0, 1), "what was changed by hand is put back"

    user.kubectl(name, "label", "storageclass", "local-path", "devenv.lab/set-")
    try:
        refused = user.devenv("up", "--name", name, code=6)
        assert "StorageClass local-path" in refused.stderr
    finally:
        user.kubectl(name, "label", "storageclass", "local-path", "devenv.lab/set=addons")


def test_disabled_add_ons_are_removed_and_the_data_stay(user: Typed, name: str) -> None:
    planned = user.objects("up", "--name", name, *OFF, "--check")[-1]
    assert (planned["exit"], planned["changed"]) == (0, 1)
    assert user.kubectl(name, "get", "storageclasses", "-o", "name").stdout.split(), "a check removes nothing"

    last = user.objects("up", "--name", name, *OFF)[-1]
    assert (last["exit"], last["changed"]) == (0, 1)
    assert user.kubectl(name, "get", "storageclasses", "-o", "name").stdout.split() == []
    kinds = "deployments,services,configmaps,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    label = ("-l", "app.kubernetes.io/managed-by=devenv")
    remaining = user.kubectl(name, "get", f"{kinds},apiservices", "-A", *label, "-o", "name").stdout.split()
    assert remaining == []
    until(
        lambda: "metrics-server" not in user.kubectl(name, "get", "pods", "-n", "kube-system", "-o", "name").stdout,
        seconds=60,
    )
    assert user.kubectl(name, "top", "nodes", code=None).returncode != 0
    assert pod(user, name, "cat /data/file") == "written\nmore\n"
    assert user.devenv("up", "--name", name).stdout.splitlines()[-1] == "changed=0"


@pytest.mark.nightly
def test_enabled_again_they_clean_up_deleted_claims(user: Typed, name: str) -> None:
    last = user.objects("up", "--name", name, "--set", "storage.enabled=true")[-1]
    assert (last["exit"], last["changed"]) == (0, 1)
    assert pod(user, name, "cat /data/file") == "written\nmore\n"
    user.kubectl(name, "delete", "pvc", "data")
    until(lambda: folders(name) == [], seconds=60)
