"""Hosts with docker: the plugins Docker, DockerCompose and ProxyContainer, and installers that start compose files.

Nightly: the node image with docker is built for these tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from support.commands import ROOT, Typed, shown

from devenv.testing.allocators.devenv import everything
from devenv.testing.errors import CommandFailed
from devenv.testing.objects import Host

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

PROFILE = """
topology: sno
clusters: {main: null}
nodes: {master-0: {cluster: null, base_image: {image}}}
"""
VERSION = str(yaml.safe_load((ROOT / "configs" / "versions.yml").read_text())["default"])
IMAGE = "devenv.lab/probe:1.0.0"
COMPOSE = f"""
version: "3"
services:
  web: {{image: "{IMAGE}", command: [httpd, -f, -p, "8080", -h, /www], ports: ["8080:8080"]}}
  other: {{image: "{IMAGE}", command: [sleep, "600"]}}
"""
# An image without files, so that no registry is needed: the programs are the host's.
OF_PROJECT = """
version: "3"
services:
  web:
    image: empty
    network_mode: host
    command: [/usr/bin/python3, -m, http.server, "{port}", --directory, /usr]
    volumes: ["/bin:/bin:ro", "/lib:/lib:ro", "/lib64:/lib64:ro", "/usr:/usr:ro"]
"""
CONFTEST = """
from devenv.testing import register_installer
from devenv.testing.installers.docker import Docker


class WithImage(Docker):
    def install(self, target, base_config, request):
        target.Docker.command("import", "-", "empty", stdin=bytes(10240))


def pytest_after_proxy_container(host, base_config, request):
    assert base_config.hosts.host1 is host
    host.SSH.execute("touch /run/devenv-test-hook")


register_installer("docker", WithImage)
"""
TEST = """
from devenv.testing import hardware_config


@hardware_config(hardware={"host1": {"installer": "core_docker"}})
def test_services_of_both_files_and_the_proxy_run(base_config):
    host = base_config.hosts.host1
    for port in (8000, 8001):
        host.SshDirect.execute(f"curl --retry 20 --retry-connrefused --retry-delay 1 -fsS http://127.0.0.1:{port}/bin/")
    assert host.SSH.execute("hostname; ls /run/devenv-test-hook") == (
        host.SshDirect.execute("hostname") + "/run/devenv-test-hook\\n"
    )
"""


@pytest.fixture(scope="module")
def name(user: Typed, new_name: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An environment of one host with docker, as docs/installers.md describes it."""
    environment, folder = new_name("docker"), tmp_path_factory.mktemp("docker")
    text = (ROOT / "docs" / "installers.md").read_text()
    (unit,) = re.findall(r"^```ini\n# docker\.conf\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^\$ devenv (base-image build docker [^`]*?)\n(?=\$|```)", text, re.MULTILINE)
    (folder / "docker.conf").write_text(unit)
    (folder / "host.yml").write_text(PROFILE.replace("{image}", environment))
    words = command.replace("\\\n", " ").replace("build docker", f"build {environment}").split()
    here = Typed(user.home, folder)
    here.devenv(*words)
    here.devenv("up", "--profile", "host.yml", "--name", environment)
    yield environment
    here.devenv("down", "--name", environment)
    here.devenv("base-image", "rm", environment)


@pytest.fixture
def host(user: Typed, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("DEVENV_HOME", str(user.home))
    base_config = everything(name)
    yield base_config.hosts["master-0"]
    base_config.clear_plugins()


def test_containers_compose_and_the_proxy(host: Host) -> None:
    docker = host.docker
    docker.verify_functionality()
    bundle = store.find(VERSION)
    assert bundle is not None
    docker.load(bundle.path / "images" / "probe.tar")
    docker.run(IMAGE, "sleep", "600", name="mine", env={"COLOUR": "red"})
    docker.wait_running("mine")
    assert docker.exec("mine", "echo $COLOUR") == "red\n"
    assert len(docker.addresses("mine")) == 1
    docker.kill("mine")
    assert not docker.is_running("mine")
    assert docker.containers("mine", stopped=True) == ["mine"]
    docker.start("mine")
    with pytest.raises(CommandFailed, match="ended with 3"):
        docker.exec("mine", "exit 3")
    docker.remove("mine", "none")
    assert docker.containers(stopped=True) == []
    compose(host)
    proxy(host)


def compose(host: Host) -> None:
    file, project = "/root/project/compose.yml", host.dockercompose
    host.sshdirect.execute("mkdir -p /root/project")
    host.sshdirect.put(COMPOSE, file)
    project.up(file, "web")
    assert len(project.containers(file)) == 1
    project.up(file)
    assert sorted(project.services(file)) == ["other", "web"]
    fetch = "curl -s --retry 20 --retry-delay 1 --retry-all-errors http://127.0.0.1:8080/"
    assert host.sshdirect.execute(fetch).startswith("devenv probe")
    before = project.containers(file)
    project.recreate(file, "other")
    assert len(set(project.containers(file)) & set(before)) == 1
    project.restart(file)
    project.down(file)
    assert project.containers(file) == []
    assert project.version[0].isdigit()


def proxy(host: Host) -> None:
    host.proxycontainer.run()
    assert host.proxycontainer.running
    host.proxycontainer.verify_functionality()
    host.ssh.put("text", "/root/file")
    assert host.ssh.execute("cat /root/file; id -un") == "textroot\n"
    assert host.sshdirect.run("test -e /root/file").code != 0
    host.proxycontainer.restart()
    host.proxycontainer.kill()
    assert not host.proxycontainer.running


def test_compose_files_of_a_project(user: Typed, name: str, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --install -p no:cacheprovider\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "devops_docker_compose.yaml").write_text(OF_PROJECT.format(port=8000))
    (tmp_path / "core_docker_compose.yaml").write_text(OF_PROJECT.format(port=8001))
    (tmp_path / "test_it.py").write_text(TEST)
    done = Typed(user.home, tmp_path).run("pytest", f"--devenv-env={name}", code=None)
    assert "1 passed" in done.stdout, shown(done)
