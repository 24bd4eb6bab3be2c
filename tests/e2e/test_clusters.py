"""Two clusters and a bare node in one environment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from support.commands import Typed
from support.seen import inside

pytestmark = pytest.mark.cluster

PROFILE = """
extends: sno
clusters: {main: {}, db-two: {}}
nodes:
  master-1: {cluster: db-two, schedulable: true, labels: {db: "true"}}
  worker-0: {cluster: null}
"""


def kubectl(user: Typed, kubeconfig: Path, *words: str) -> str:
    return user.run("kubectl", f"--kubeconfig={kubeconfig}", *words).stdout


def test_two_clusters_and_a_bare_node(user: Typed, environment: str, tmp_path: Path) -> None:
    profile = tmp_path / "two.yml"
    profile.write_text(PROFILE)
    user.devenv("up", "--profile", str(profile), "--name", environment)
    state = user.home / "environments" / environment
    contexts, cas = [], set()
    for cluster, node in (("main", "master-0"), ("db-two", "master-1")):
        kubeconfig = state / "clusters" / cluster / "kubeconfig"
        (item,) = json.loads(kubectl(user, kubeconfig, "get", "nodes", "-o", "json"))["items"]
        assert item["metadata"]["name"] == node
        assert item["metadata"]["labels"].get("db") == ("true" if cluster == "db-two" else None)
        document = yaml.safe_load(kubeconfig.read_text())
        contexts.append(document["current-context"])
        cas.add(document["clusters"][0]["cluster"]["certificate-authority-data"])
        assert f"{cluster}.{environment}.devenv.internal" in inside(f"{environment}-{node}", "cat", "/etc/hosts")
    assert contexts == [f"devenv-{environment}", f"devenv-{environment}-db-two"]
    assert len(cas) == 2
    # The bare node resolves the names of the other nodes, and has no part of Kubernetes.
    assert inside(f"{environment}-worker-0", "getent", "hosts", "master-1").split()[1] == "master-1"
    search = "find /etc/kubernetes /var/lib/kubelet -mindepth 1 -not -path '*/manifests*' 2>/dev/null | head"
    assert inside(f"{environment}-worker-0", "sh", "-c", search) == ""
    units = ["podman", "exec", f"{environment}-worker-0", "systemctl", "is-active", "kubelet", "containerd"]
    assert subprocess.run(units, capture_output=True, text=True).stdout.split() == ["inactive", "inactive"]
    assert user.changes("up", "--name", environment, "--full") == []
    assert "nothing has changed" in user.devenv("up", "--name", environment).stderr
