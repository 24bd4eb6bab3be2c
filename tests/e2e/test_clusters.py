"""The profile "two teams" of the docs: two clusters and a bare node in one environment, behind a proxy."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.commands import ROOT, Typed, finish
from support.proxies import Recorder, recorder
from support.seen import inside

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

NODES = {"red": ["master-0"], "blue": ["master-1", "worker-0"]}


def teams(folder: Path) -> Path:
    """Return the file of the docs' profile."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "profiles.md").read_text(), re.MULTILINE | re.DOTALL)
    (text,) = [block for block in blocks if block.startswith("# a cluster for each of two teams")]
    path = folder / "teams.yml"
    path.write_text(text)
    return path


def names(text: str) -> list[str]:
    """Return the names of the nodes in the output of ``kubectl get nodes -o json``."""
    return [item["metadata"]["name"] for item in json.loads(text)["items"]]


GET_NODES = ("get", "nodes", "-o", "json")


def test_two_teams(user: Typed, environment: str, tmp_path: Path) -> None:
    proxy_of_nodes = "proxy.https=http://192.0.2.1:3128"
    up = user.devenv("up", "--profile", str(teams(tmp_path)), "--name", environment, "--set", proxy_of_nodes)
    assert re.search(r'eval "\$\(devenv env.* --cluster red\)" && kubectl get nodes', up.stderr)
    check_clusters(user, environment)
    check_bare_node(environment)
    check_proxy_of_nodes(user, environment)
    check_status_and_validate(user, environment)
    with recorder() as proxy:
        check_proxy(user, environment, proxy)
        assert user.changes("up", "--name", environment, "--full", env=proxy.variables) == []
        assert "nothing has changed" in user.devenv("up", "--name", environment, env=proxy.variables).stderr
        assert proxy.lines == []
    save_one_cluster(user, environment)
    check_merge_and_down(user, environment, tmp_path)


def check_clusters(user: Typed, environment: str) -> None:
    """Each command reaches the cluster that it names, and none without a name."""
    contexts, cas = [], set()
    for cluster, nodes in NODES.items():
        option = ("--name", environment, "--cluster", cluster)
        found = json.loads(user.devenv("exec", *option, "--", "kubectl", *GET_NODES).stdout)["items"]
        assert [item["metadata"]["name"] for item in found] == nodes
        labels = {item["metadata"]["name"]: item["metadata"]["labels"].get("team") for item in found}
        assert labels == {node: "blue" if node == "worker-0" else None for node in nodes}
        document = yaml.safe_load(user.devenv("kubeconfig", *option).stdout)
        contexts.append(document["current-context"])
        cas.add(document["clusters"][0]["cluster"]["certificate-authority-data"])
        hosts = inside(f"{environment}-{nodes[0]}", "cat", "/etc/hosts")
        assert f"{cluster}.{environment}.devenv.internal" in hosts
    assert contexts == [f"devenv-{environment}-red", f"devenv-{environment}-blue"]
    assert len(cas) == 2
    for words in (["env"], ["kubeconfig"]):
        assert "red, blue" in user.devenv(*words, "--name", environment, code=2).stderr


def check_bare_node(environment: str) -> None:
    """The bare node resolves the names of the other nodes, and has no part of Kubernetes."""
    node = f"{environment}-worker-1"
    assert inside(node, "getent", "hosts", "master-1").split()[1] == "master-1"
    search = "find /etc/kubernetes /var/lib/kubelet -mindepth 1 -not -path '*/manifests*' 2>/dev/null | head"
    assert inside(node, "sh", "-c", search) == ""
    units = ["podman", "exec", node, "systemctl", "is-active", "kubelet", "containerd"]
    assert subprocess.run(units, capture_output=True, text=True).stdout.split() == ["inactive", "inactive"]


def check_proxy_of_nodes(user: Typed, environment: str) -> None:
    """containerd pulls images through the profile's proxy, except from the environment's own networks."""
    variables = user.data("inventory", "--name", environment)["all"]["vars"]
    text = inside(f"{environment}-master-0", "systemctl", "show", "--property=Environment", "containerd")
    (listed,) = re.findall(r"\bNO_PROXY=(\S*)", text)
    networks = [ipaddress.ip_network(item, strict=False) for item in listed.split(",") if "/" in item]
    ranges = [*variables["devenv_pod_subnets"], *variables["devenv_service_subnets"]]
    assert {ipaddress.ip_network(item) for item in ranges} <= set(networks)
    for node in user.data("node", "list", "--name", environment):
        for address in map(ipaddress.ip_address, node["addresses"]):
            assert any(address in network for network in networks)


def check_status_and_validate(user: Typed, environment: str) -> None:
    status = user.data("status", "--name", environment)
    states = {node["name"]: node["kubernetes"] for node in status["nodes"]}
    assert states == dict.fromkeys([*NODES["red"], *NODES["blue"]], "Ready") | {"worker-1": "absent"}
    assert status["api"] == "answers"
    blue = user.data("status", "--name", environment, "--cluster", "blue")
    assert [node["name"] for node in blue["nodes"]] == NODES["blue"]
    rows = user.objects("validate", "--name", environment, "--cluster", "red")
    assert {row["cluster"] for row in rows if row["type"] == "check"} == {"red"}
    unknown = user.playbook("validate", "-e", f"devenv_name={environment}", "-e", "devenv_clusters=green", code=None)
    assert unknown.returncode != 0
    assert "no cluster green" in unknown.stdout + unknown.stderr


PYTHON = """
import sys, urllib.request, ssl
from kubernetes import client
from devenv import Environment
lab = Environment.open(sys.argv[1])
for cluster in lab.clusters.values():
    with cluster.kubernetes() as api:
        print(cluster.name, *sorted(item.metadata.name for item in client.CoreV1Api(api).list_node().items))
"""


def check_proxy(user: Typed, environment: str, proxy: Recorder) -> None:
    """kubectl, curl and Python behind a proxy reach both clusters; the proxy sees the other requests only."""
    addresses = {row["name"]: row["addresses"][0] for row in user.data("node", "list", "--name", environment)}
    for cluster, nodes in NODES.items():
        option = ("--name", environment, "--cluster", cluster)
        found = user.devenv("exec", *option, "--", "kubectl", *GET_NODES, env=proxy.variables)
        assert names(found.stdout) == nodes
        curl = f"curl -sS --insecure --max-time 20 https://{addresses[nodes[0]]}:6443/livez"
        script = f'eval "$(devenv env {" ".join(option)})" && kubectl get nodes -o json >&2 && {curl}'
        path = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        shown = user.run("/bin/sh", "-c", script, env={**proxy.variables, **path})
        assert (shown.stdout, names(shown.stderr)) == ("ok", nodes)
    shown = user.run(sys.executable, "-c", PYTHON, environment, env=proxy.variables)
    assert shown.stdout.splitlines() == [" ".join([cluster, *nodes]) for cluster, nodes in NODES.items()]
    words = ("forward", "kube-system/kube-dns", ":dns-tcp", "--name", environment, "--cluster", "blue")
    forward = user.start("devenv", *words, env=proxy.variables)
    assert forward.stdout is not None
    first = forward.stdout.readline()
    forward.send_signal(signal.SIGINT)
    assert "kube-system/kube-dns:53" in first + finish(forward, 60, code=None).stderr
    assert proxy.lines == []
    # The proxy would record a request.
    user.run("/bin/sh", "-c", "curl -sS --max-time 20 http://192.0.2.1/", env=proxy.variables, code=None)
    assert proxy.lines == ["GET http://192.0.2.1/ HTTP/1.1"]
    proxy.lines.clear()


def save_one_cluster(user: Typed, environment: str) -> None:
    snapshot = f"{environment}-red"
    user.devenv("snapshot", "save", snapshot, "--name", environment, "--cluster", "red")
    (row,) = user.data("snapshot", "list")
    assert (row["name"], row["nodes"], row["state"]) == (snapshot, ["master-0"], "whole")
    user.devenv("snapshot", "rm", snapshot)


def check_merge_and_down(user: Typed, environment: str, tmp_path: Path) -> None:
    """A kubeconfig that kubectl wrote has both clusters after --merge, and is as before after down."""
    config = tmp_path / "config"
    env = {"KUBECONFIG": str(config)}
    user.run("kubectl", "config", "set-context", "work", "--cluster=work", env=env)
    user.run("kubectl", "config", "use-context", "work", env=env)
    before, inode = config.read_text(), config.stat().st_ino
    user.devenv("kubeconfig", "--merge", "--name", environment, "--cluster", "blue", "--switch-context", env=env)
    user.devenv("kubeconfig", "--merge", "--name", environment, env=env)
    assert names(user.run("kubectl", *GET_NODES, env=env).stdout) == NODES["blue"]
    for cluster, nodes in NODES.items():
        context = f"--context=devenv-{environment}-{cluster}"
        assert names(user.run("kubectl", context, *GET_NODES, env=env).stdout) == nodes
    # kubectl rewrites the file, and keeps what devenv needs to undo the merge.
    user.run("kubectl", "config", "set-context", "--current", "--namespace=kube-system", env=env)
    user.devenv("down", "--name", environment)
    assert (config.read_text(), config.stat().st_ino) == (before, inode)


SMALL = """
extends: sno
clusters: {main: null, red: {}, blue: {}}
nodes:
  master-0: {cluster: red}
  master-1: {cluster: blue, schedulable: true}
"""


def test_a_snapshot_of_one_cluster_becomes_an_environment_with_this_cluster_alone(
    user: Typed, environment: str, new_name: Callable[[str], str], tmp_path: Path
) -> None:
    path = tmp_path / "small.yml"
    path.write_text(SMALL)
    user.devenv("up", "--profile", str(path), "--name", environment)
    blue = ("--cluster", "blue", "--", "kubectl")
    user.devenv("exec", "--name", environment, *blue, "create", "configmap", "saved", "--from-literal=team=blue")
    again = new_name("blue")
    user.devenv("snapshot", "save", again, "--name", environment, "--cluster", "blue")
    user.devenv("down", "--name", environment)
    try:
        user.devenv("up", "--snapshot", again, "--name", again)
        found = user.devenv("exec", "--name", again, "--", "kubectl", *GET_NODES)
        assert names(found.stdout) == ["master-1"]
        read = ("kubectl", "get", "configmap", "saved", "-o", "jsonpath={.data.team}")
        assert user.devenv("exec", "--name", again, "--", *read).stdout == "blue"
    finally:
        user.devenv("down", "--name", again)
        user.devenv("snapshot", "rm", again)
