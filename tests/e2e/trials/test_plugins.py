"""Plugins of hosts and clusters on a real cluster, and the Python shell that gives access to them."""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import Typed

from devenv.testing.allocators.devenv import everything
from devenv.testing.errors import CommandFailed, CommandTimeout, NotAvailable
from devenv.testing.objects import BaseConfig, Cluster, Host

pytestmark = pytest.mark.cluster

# Two files of a folder; the namespace of the objects in the first is in the second.
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: plugins}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 0}
      containers:
        - name: web
          image: devenv.lab/probe:1.0.0
          imagePullPolicy: Never
          command: [httpd, -f, -p, "8080", -h, /www]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: plugins}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
SPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: plugins}\n"
CHART = {
    "Chart.yaml": "apiVersion: v2\nname: settings\nversion: 1.2.3\n",
    "templates/settings.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n"
    "data: {colour: {{ .Values.colour | quote }}}\n",
}


@pytest.fixture
def machines(user: Typed, trial: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BaseConfig]:
    monkeypatch.setenv("DEVENV_HOME", str(user.home))
    base_config = everything(trial)
    yield base_config
    base_config.reset_state()
    base_config.clear_plugins()


@pytest.fixture
def cluster(machines: BaseConfig) -> Cluster:
    return machines.clusters.main


@pytest.fixture
def host(machines: BaseConfig) -> Host:
    return machines.hosts.master_0


@pytest.fixture
def web(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A folder of manifests, applied."""
    folder = tmp_path / "deploy"
    folder.mkdir()
    (folder / "1-web.yml").write_text(WEB)
    (folder / "2-namespace.yaml").write_text(SPACE)
    (folder / "readme.txt").write_text("no: [manifest")
    assert [item.kind for item in cluster.kubectl.apply(folder)] == ["Namespace", "Deployment", "Service"]
    cluster.kubectl.rollout("deployment/web", namespace="plugins")
    yield folder
    cluster.kubectl.delete(folder)
    cluster.kubectl.wait("Namespace", "plugins", "delete")


def fetched(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        return str(answer.read().decode())


def test_kubectl_works_on_deployments(cluster: Cluster, web: Path, tmp_path: Path) -> None:
    kubectl = cluster.kubectl
    kubectl.scale("deployment/web", 2, "plugins")
    kubectl.rollout("deployment/web", namespace="plugins")
    assert kubectl.get("deployment/web", namespace="plugins")["status"]["readyReplicas"] == 2
    kubectl.scale("deployment/web", 1, "plugins")
    (before,) = kubectl.get_nodes()
    assert before.metadata.name in kubectl.command("get", "nodes")
    revision = "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}"
    kubectl.rollout("deployment/web", "restart", "plugins")
    assert kubectl.command("get", "deployment/web", "-n", "plugins", "-o", f"jsonpath={revision}") == "2"
    with pytest.raises(CommandFailed, match="not found"):
        kubectl.rollout("deployment/other", namespace="plugins")
    kubectl.command("set", "image", "deployment/web", "web=nowhere.invalid/none:1", "-n", "plugins")
    with pytest.raises(CommandTimeout):
        kubectl.rollout("deployment/web", namespace="plugins", timeout=2)
    kubectl.rollout("deployment/web", "undo", "plugins")

    (tmp_path / "page").write_text("mine\n")
    kubectl.wait(
        "Deployment", "web", lambda item: item.status.replicas == 1, namespace="plugins", api_version="apps/v1"
    )
    (pod,) = [
        pod.metadata.name for pod in kubectl.get_pods("plugins", "app=web") if not pod.metadata.deletion_timestamp
    ]
    kubectl.cp(str(tmp_path / "page"), f"{pod}:/www/index.html", "plugins")
    kubectl.cp(f"{pod}:/www/index.html", str(tmp_path / "back"), "plugins")
    assert (tmp_path / "back").read_text() == "mine\n"
    with pytest.raises(CommandFailed, match="test -e /www/missing"):
        kubectl.cp(f"{pod}:/www/missing", str(tmp_path / "none"), "plugins")

    for target, port in (("service/web", 80), (f"pod/{pod}", 8080)):
        with kubectl.port_forward(target, port, "plugins") as tunnel:
            assert fetched(tunnel.local_port) == "mine\n"
    with pytest.raises(CommandFailed, match="not found"):
        kubectl.port_forward("service/other", 80, "plugins")
    left = kubectl.port_forward("deployment/web", 8080, "plugins")
    kubectl.reset_state()
    assert not left.is_open
    kubectl.command("delete", "deployment/web", "-n", "plugins")
    assert kubectl.wait("Deployment", "web", "delete", namespace="plugins", api_version="apps/v1")


def test_a_proxy_on_port_2222_sees_the_names_of_the_cluster(cluster: Cluster, host: Host, web: Path) -> None:
    proxy = cluster.proxydaemonset
    assert not proxy.running
    proxy.run()
    try:
        assert proxy.running
        proxy.verify_functionality()
        name = "web.plugins.svc.cluster.local"
        # The node does not know the name.
        assert host.sshdirect.run(["getent", "hosts", name]).code != 0
        assert host.ssh.execute(["getent", "hosts", name]).split()[1] == name
        host.ssh.put("text", "/root/file")
        assert host.ssh.execute("id -un; cat /root/file") == "root\ntext"
        assert host.sshdirect.run("test -e /root/file").code != 0
        with host.tunnelmanager.open(80, name, via=host.ssh) as tunnel:
            assert fetched(tunnel.local_port).startswith("devenv probe")
    finally:
        proxy.kill()
    assert not proxy.running
    with pytest.raises(OSError), socket.create_connection((host.ip, 2222), timeout=10):  # noqa: PT011  # of any kind
        pass


def test_admin_restores_the_time_zone(host: Host) -> None:
    host.admin.verify_functionality()
    assert len(host.admin.machine_id()) == 32
    before = host.admin.timezone()
    host.admin.set_timezone("Asia/Tokyo")
    assert host.sshdirect.execute("date +%Z").strip() == "JST"
    with pytest.raises(CommandFailed):
        host.admin.set_timezone("Mars/Olympus")
    host.admin.reset_state()
    assert host.admin.timezone() == before
    host.admin.flush_journal()


def test_kubectl_on_a_host(host: Host, cluster: Cluster) -> None:
    k8s = host.k8s
    assert [node["metadata"]["name"] for node in k8s.nodes()] == ["master-0"]
    assert k8s.version.startswith("v1.")
    k8s.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine}\n")
    assert cluster.kubectl.get("configmap/mine")["metadata"]["namespace"] == "default"
    k8s.delete("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine}\n")
    with pytest.raises(CommandFailed, match="not found"):
        k8s.get("configmap/mine")
    with pytest.raises(NotAvailable, match="helm does not exist there"):
        host.helm.list()


@pytest.mark.nightly
def test_helm_installs_and_removes_a_chart(
    user: Typed, host: Host, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, text in CHART.items():
        file = tmp_path / "settings" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder,) = [
        line for line in user.devenv("bundle", "build", "--with", "helm").stdout.splitlines() if line[0] == "/"
    ]
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    host.sshdirect.upload(f"{folder}/bin/helm", "/usr/local/bin/helm")
    host.sshdirect.rsync(tmp_path / "settings", "/root")
    try:
        for helm, chart in ((cluster.helm, str(tmp_path / "settings")), (host.helm, "/root/settings")):
            for colour in ("red", "green"):
                helm.install("mine", chart, "charts", values={"colour": colour})
                assert cluster.kubectl.get("configmap/settings", namespace="charts")["data"] == {"colour": colour}
            assert helm.values("mine", "charts") == {"colour": "green"}
            assert [row["chart"] for row in helm.list("charts")] == ["settings-1.2.3"]
            helm.uninstall("mine", "charts")
            assert not helm.exists("mine", "charts")
            helm.uninstall("mine", "charts")
    finally:
        host.sshdirect.execute("rm -rf /usr/local/bin/helm /root/settings")
        cluster.kubectl.command("delete", "namespace", "charts", "--ignore-not-found")


def test_the_shell_reaches_nodes_and_the_api(user: Typed, trial: str) -> None:
    code = "print(hosts.master_0.sshdirect.execute('hostname'), len(clusters.main.kubectl.get_nodes()))"
    done = user.devenv("shell", "--name", trial, "-c", code)
    assert (done.stdout, done.stderr) == ("master-0\n 1\n", "")
