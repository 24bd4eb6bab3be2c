"""The pytest plugin in a user's project, on one real environment: a cluster with one host, and a bare host."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from support.commands import Typed, shown

pytestmark = pytest.mark.cluster

HEAD = """
import os, signal, subprocess, time
import pytest
from devenv.testing import hardware_config, on_all
from devenv.testing.errors import CommandFailed, CommandTimeout
"""
PROJECT = """
pytestmark = hardware_config(
    hardware={"host1": {"labels": {"db": "true"}}, "host2": {}},
    grouping={"cluster1": {"hosts": ["host1"]}},
)


def test_objects(base_config):
    cluster = base_config.clusters.cluster1
    assert cluster.hosts.host1 is base_config.hosts.host1
    assert cluster.K8SMaster() is base_config.hosts.host1
    names = on_all(base_config.hosts, "hostname")
    assert names == {"host1": "master-0\\n", "host2": "worker-0\\n"}
    assert base_config.environment.hosts["worker-0"].cluster == ""


def test_crash(base_config):
    base_config.hosts.host2.SshDirect.execute("echo before the crash | systemd-cat")
    os.kill(os.getpid(), signal.SIGKILL)


def test_ssh(base_config, tmp_path):
    ssh = base_config.hosts.host1.SshDirect
    ssh.verify_functionality()
    with pytest.raises(CommandFailed, match="ended with 3"):
        ssh.execute("exit 3")
    with pytest.raises(CommandTimeout):
        ssh.execute("sleep 4721", timeout=1)
    job = ssh.background("sleep 4722", deadline=2)
    with pytest.raises(CommandTimeout):
        job.wait()
    ssh.background("sleep 4723", deadline=600)
    ssh.reset_state()
    assert ssh.execute("pgrep -f '[s]leep 472' || :") == ""
    ssh.put("text", "/root/put")
    (tmp_path / "file").write_text("1")
    ssh.upload(tmp_path / "file", "/root/up")
    assert ssh.download("/root/put", tmp_path / "down").read_text() == "text"
    ssh.rsync(f"{tmp_path}/", "/root/all")
    assert ssh.run_parallel(["cat /root/up", "cat /root/all/down"]) == ["1", "text"]


def test_tunnel_and_firewall(base_config):
    one, two = base_config.hosts.values()
    one.TunnelManager.verify_functionality()
    connect = "timeout {} bash -c '< /dev/tcp/{}/22'"
    one.SshDirect.execute(connect.format(30, two.ip))
    one.Iptables.block(two)
    assert one.SshDirect.run(connect.format(3, two.ip)).code != 0


def test_the_firewall_is_as_it_was(base_config):
    one, two = base_config.hosts.values()
    one.SshDirect.execute(f"timeout 30 bash -c '< /dev/tcp/{two.ip}/22'")
    assert "DEVENV-TEST" not in "".join(one.Iptables.rules())


def test_kubernetes(base_config):
    kubectl = base_config.clusters.cluster1.Kubectl
    kubectl.verify_functionality()
    (node,) = kubectl.get_nodes()
    assert node.metadata.labels["db"] == "true"
    etcd = next(pod.metadata.name for pod in kubectl.get_pods("kube-system") if pod.metadata.name.startswith("etcd"))
    assert kubectl.logs(etcd, "kube-system", tail=1).startswith("{")
    assert "etcdctl version" in kubectl.exec(etcd, ["etcdctl", "version"], "kube-system")
    with pytest.raises(CommandFailed, match="unknown command"):
        kubectl.exec(etcd, ["etcdctl", "nonsense"], "kube-system")
    manifest = "apiVersion: v1\\nkind: ConfigMap\\nmetadata: {name: mine}\\ndata: {a: b}\\n"
    kubectl.apply(manifest)
    assert kubectl.wait("ConfigMap", "mine", lambda document: document.data.a == "b").data.a == "b"
    kubectl.delete(manifest)
    with pytest.raises(CommandTimeout, match="it did not exist"):
        kubectl.wait("ConfigMap", "mine", timeout=1)


def test_power_off(base_config):
    host = base_config.hosts.host2
    host.Iptables.block(base_config.hosts.host1)
    host.power.off()
    assert not host.power.is_on()


def test_the_node_is_on_again(base_config):
    host = base_config.hosts.host2
    assert host.Power.is_on()
    assert "DEVENV-TEST" not in "".join(host.Iptables.rules())
"""
HANGS = """
@hardware_config(hardware={"host1": {"installer": "ssh"}})
def test_hangs(base_config):
    open("started", "w").close()
    time.sleep(3600)
"""


@pytest.fixture
def project(user: Typed, tmp_path: Path) -> Typed:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --install -p no:cacheprovider --color=no\n")
    return Typed(user.home, tmp_path)


def write(project: Typed, text: str) -> None:
    (project.cwd / "test_it.py").write_text(HEAD + textwrap.dedent(text))


def environments(user: Typed) -> list[str]:
    rows: list[dict[str, Any]] = user.data("list")
    return [str(row["name"]) for row in rows if row["home"] == str(user.home)]


def test_a_project_with_a_cluster_and_a_bare_host(project: Typed) -> None:
    write(project, PROJECT)
    done = project.run("pytest", "-v", "--devenv-isolate", "--devenv-logs=logs", code=1)
    last = done.stdout.splitlines()[-1]
    assert "1 failed, 7 passed" in last, shown(done)
    assert "test process was killed by SIGKILL" in done.stdout
    # All tests used one environment, which is removed.
    assert done.stdout.count(": creating 2 hosts, 1 cluster") == 1
    assert environments(project) == []
    logs = project.cwd / "logs"
    assert [path.name for path in (logs / "failed").iterdir()] == ["test_it.py_test_crash"]
    assert len(list((logs / "passed").iterdir())) == 7
    # Also for the test that was killed.
    crashed = logs / "failed" / "test_it.py_test_crash"
    assert "before the crash" in (crashed / "hosts" / "host2" / "journal.txt").read_text()
    assert (
        "etcd-master-0 Running" in (logs / "passed" / "test_it.py_test_objects/clusters/cluster1/pods.txt").read_text()
    )


def test_a_killed_pytest_leaves_no_environment(project: Typed) -> None:
    """The environment of a pytest that is killed is removed."""
    write(project, HANGS)
    child = project.start("pytest", "-q")
    end = time.monotonic() + 300
    while not (project.cwd / "started").exists():
        assert child.poll() is None and time.monotonic() < end, child.communicate()  # noqa: PT018
        time.sleep(0.5)
    assert len(environments(project)) == 1
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    end = time.monotonic() + 120
    while environments(project):
        assert time.monotonic() < end
        time.sleep(1)
