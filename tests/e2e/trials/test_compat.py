"""A suite of pytest_automation_infra, unchanged, on the machines of an existing environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import ROOT, Typed, shown

pytestmark = pytest.mark.cluster

CONFTEST = """
from automation_infra.utils import concurrently, waiter
from infra.model import plugins
from pytest_automation_infra import helpers

class Motd(object):
    def __init__(self, host): self._host = host
    def read(self): return self._host.SshDirect.execute("cat /tmp/motd", 30)

plugins.register("Motd", Motd)

def pytest_before_provisioning(item): print("provisioning for", item.name)

def pytest_after_base_config(base_config, request):
    concurrently.run([(host.SshDirect.connect, 22, 60) for host in base_config.hosts.values()])

def pytest_clean_between_tests(host, item):
    host.TunnelManager.clear()
    waiter.wait_nothrow(host.SshDirect.connect, timeout=30)

def pytest_download_logs(host, dest_dir):
    host.SshDirect.download(dest_dir, "/tmp/motd")
"""
TESTS = """
import socket
import pytest
from automation_infra.plugins.ssh_direct import SSHCalledProcessError
from pytest_automation_infra import helpers
from pytest_automation_infra.helpers import hardware_config

@hardware_config(hardware={"host1": {"hardware_type": "vm", "base_image": "k8s_base", "installer": "ssh"}},
                 grouping={"cluster1": {"hosts": ["host1"]}})
def test_old(base_config, tmp_path):
    host, cluster1 = base_config.hosts.host1, base_config.clusters.cluster1
    (tmp_path / "a").write_text("first")
    host.SshDirect.put([str(tmp_path / "a")], "/tmp/")
    assert host.SshDirect.get_contents("/tmp/a") == "first"
    host.SshDirect.put_contents("hello", "/tmp/motd")
    assert host.Motd.read() == "hello"
    host.SshDirect.download(str(tmp_path), "/tmp/motd")
    assert (tmp_path / "motd").read_text() == "hello"
    with pytest.raises(SSHCalledProcessError) as caught:
        host.SshDirect.execute("ls /none", timeout=30)
    assert caught.value.returncode == 2 and "No such file" in caught.value.stderr
    tunnel = host.TunnelManager.get_or_create("ssh", host.ip, 22)
    assert tunnel is host.TunnelManager.get_or_create("ssh", host.ip, 22)
    with socket.create_connection(("127.0.0.1", tunnel.local_bind_port), timeout=15) as connection:
        assert connection.recv(3) == b"SSH"
    assert not helpers.is_blank(host.SshDirect)
    assert helpers.use_gravity_exec(host.SshDirect) == ""
    assert any(pod.status.phase == "Running" for pod in cluster1.kubectl.get_pods())

@hardware_config(hardware={"host1": {"hardware_type": "vm", "base_image": "k8s_base", "installer": "ssh"}},
                 grouping={"cluster1": {"hosts": ["host1"]}})
def test_fails(base_config):
    assert base_config.hosts.host1.SshDirect.execute("hostname") == ""
"""


def test_an_old_suite_runs_unchanged(trial: str, user: Typed, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider --color=no\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_old.py").write_text(TESTS)
    suite = Typed(user.home, tmp_path)
    words = ("test", "run", "-p", "pytest_subprocessor", "test_old.py", "--sf=-p pytest_devops_infra --install")
    options = (f"--devenv-env={trial}", "--logs-dir=logs")
    done = suite.devenv(*words, *options, code=1, env={"PYTHONPATH": str(ROOT / "compat" / "src")})
    assert "1 failed, 1 passed" in done.stdout, shown(done)
    assert "provisioning for test_old" in done.stdout
    (passed,) = (tmp_path / "logs" / "passed").iterdir()
    (failed,) = (tmp_path / "logs" / "failed").iterdir()
    assert (passed.name, failed.name) == ("test_old.py_test_old", "test_old.py_test_fails")
    assert (passed / "hosts" / "host1" / "motd").read_text() == "hello"
    assert (passed / "hosts" / "host1" / "journal.txt").is_file()
    assert (failed / "clusters" / "cluster1" / "pods.txt").is_file()
    assert (failed / "debug.log").is_file()
    suite.devenv("ssh", "--name", trial, "--", "rm", "-f", "/tmp/a", "/tmp/motd")
