"""Machines of a remote service, tested against a double of its protocol."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from doubles import habertest as double
from support.waits import until

from devenv.testing import demand, demand_parse
from devenv.testing.allocators import habertest
from devenv.testing.errors import AllocationFailed

HARDWARE: dict[str, Any] = {"hardware": {"host1": {}, "host2": {"gpus": 1}, "host3": {}}}


@dataclass(frozen=True)
class Lab:
    server: double.Server
    folder: Path

    @property
    def service(self) -> double.Service:
        return self.server.service

    def allocator(self, **other: str) -> habertest.Habertest:
        files = {
            name: str(self.folder / f"{file}.pem") for name, file in (("cert", "us"), ("key", "us-key"), ("ca", "ca"))
        }
        return habertest.Habertest(**{"provisioner": self.server.url, "heartbeat": self.server.url, **files, **other})


def certificates(folder: Path) -> None:
    """Create a CA, certificates of the service and the client signed by it, and a self-signed one."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    openssl(*new, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=ca")
    openssl(*new, "-keyout", "other-key.pem", "-out", "other.pem", "-subj", "/CN=other")
    for name in ("service", "us"):
        signed = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-addext", "subjectAltName=DNS:localhost"]
        leaf = ["-addext", "basicConstraints=critical,CA:FALSE"]
        openssl(*new, *signed, *leaf, "-keyout", f"{name}-key.pem", "-out", f"{name}.pem", "-subj", f"/CN={name}")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    certificates(folder)
    return folder


@pytest.fixture
def lab(keys: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    machines = [
        {"ip": f"192.0.2.{number}", "user": "root", "pem_key_string": "KEY", "vm_id": f"vm{number}"}
        for number in (1, 2, 3)
    ]
    server = double.Server(double.Service(machines), keys / "service.pem", keys / "service-key.pem", keys / "ca.pem")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setattr(habertest, "PAUSE", 0.05)
    monkeypatch.setattr(habertest, "BEAT", 0.05)
    yield Lab(server, keys)
    server.shutdown()
    thread.join()
    server.server_close()


def requested() -> demand.Demand:
    return demand_parse.parse(HARDWARE, remote=True)


def up(allocator: habertest.Habertest, name: str = "pytest-a") -> list[str]:
    lines: list[str] = []
    allocator.up(name, requested(), timeout=None, report=lines.append)
    return lines


def test_machines_are_requested_and_released(lab: Lab) -> None:
    allocator = lab.allocator()
    assert up(allocator) == ["requesting host1, host3", "requesting host2"]
    assert allocator.is_up("pytest-a")
    config = allocator.describe("pytest-a", requested())
    # The order of the answer does not matter, and hosts with different requirements are requested separately.
    assert [(host.name, host.addresses, host.vm_id) for host in config.hosts.values()] == [
        ("host1", ("192.0.2.1",), "vm1"),
        ("host2", ("192.0.2.3",), "vm3"),
        ("host3", ("192.0.2.2",), "vm2"),
    ]
    assert config.environment_name == ""
    image = {"hardware_type": "vm", "base_image": "automation_infra_1.0"}
    assert lab.service.demands == [{"host1": image, "host3": image}, {"host2": {**image, "gpus": 1}}]
    assert set(lab.service.requestors[0]) == {
        "hostname", "username", "ip", "external_ip", "creation_time", "running_cmd",
    }  # fmt: skip
    allocator.down("pytest-a")
    assert (len(lab.service.free), lab.service.jobs) == (3, {})
    assert not allocator.is_up("pytest-a")
    allocator.down("pytest-a")


def test_the_service_gets_the_keys_of_each_host_unchanged(lab: Lab) -> None:
    hosts = {
        "host1": {"hardware_type": "ai_camera", "base_image": "regular", "installer": "ssh", "gpus": 1},
        "host2": {"hardware_type": "vm", "base_image": "own_2.3", "labels": {"a": "b"}, "node_type": ["pipe"]},
        "host3": {"hardware_type": "table", "base_image": "regular", "installer_type": "ssh", "gpu": 2, "ram": 8},
    }
    arguments = {"hardware": hosts, "grouping": {"c": {"hosts": ["host2"]}}}
    wanted = replace(demand_parse.parse(arguments, remote=True, install=True), clusters=())
    lab.allocator().up("pytest-a", wanted, timeout=None, report=lambda text: None)
    assert {name: keys for request in lab.service.demands for name, keys in request.items()} == hosts


def test_secrets_are_private(lab: Lab) -> None:
    allocator = lab.allocator()
    up(allocator)
    allocator.describe("pytest-a", requested())
    kept = [path for path in (paths.home() / "testing").rglob("*") if path.is_file()]
    assert any("KEY" in path.read_text() for path in kept)
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}


def test_a_busy_service_is_retried_until_the_time_is_over(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.service.busy = 2
    allocator = lab.allocator()
    up(allocator)
    assert len(lab.service.demands) == 4
    allocator.down("pytest-a")
    lab.service.busy = 1000
    monkeypatch.setattr(habertest, "PATIENCE", 0.2)
    with pytest.raises(AllocationFailed, match="habertest: busy for host1, host3"):
        up(allocator)


def test_a_failed_allocation_releases_its_machines(lab: Lab) -> None:
    lab.service.free.pop()
    allocator = lab.allocator()
    with pytest.raises(AllocationFailed, match="habertest: unfulfillable for host2: 0 machines are free"):
        up(allocator)
    assert len(lab.service.jobs) == 1
    allocator.down("pytest-a")
    assert lab.service.jobs == {}


def test_heartbeats_keep_the_machines(lab: Lab) -> None:
    lab.service.lease = 1.0
    allocator = lab.allocator()
    up(allocator)
    allocator.hold("pytest-a")
    beats = lab.service.beats
    until(lambda: lab.service.beats > beats + 40)
    assert allocator.is_up("pytest-a")
    # Without heartbeats, as after a crash, the service takes the machines back, and they are requested again.
    allocator.close()
    until(lambda: not allocator.is_up("pytest-a"))
    up(allocator)
    assert allocator.is_up("pytest-a")
    allocator.down("pytest-a")


def test_each_side_refuses_an_untrusted_certificate(lab: Lab, tmp_path: Path) -> None:
    for other in (
        {"ca": str(lab.folder / "other.pem")},
        {"cert": str(lab.folder / "other.pem"), "key": str(lab.folder / "other-key.pem")},
        # Signed by the CA, but for another name.
        {"provisioner": lab.server.url.replace("localhost", "127.0.0.1")},
    ):
        with pytest.raises(AllocationFailed):
            up(lab.allocator(**other))
    with pytest.raises(AllocationFailed, match="certificates of habertest"):
        up(lab.allocator(cert=str(tmp_path / "none")))
    assert lab.service.demands == []


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_of_pytest_releases_its_machines(lab: Lab, tmp_path: Path, killed: bool) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(
        "import os, signal, time\n"
        "from devenv.testing import hardware_config\n"
        "@hardware_config(hardware={'host1': {'gpus': 1}})\n"
        "def test_it(base_config, request):\n"
        "    assert base_config.hosts.host1.vm_id == 'vm1'\n"
        f"    if {killed}:\n"
        "        os.kill(int(os.environ['PYTEST_PID']), signal.SIGKILL)\n"
        "        time.sleep(600)\n"
    )
    (tmp_path / "conftest.py").write_text("import os\nos.environ['PYTEST_PID'] = str(os.getpid())\n")
    files = {"cert": "us", "key": "us-key", "ca": "ca"}
    options = [f"--ssl-{name}={lab.folder / file}.pem" for name, file in files.items()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--provisioner={lab.server.url}", *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == (-9 if killed else 0), done.stdout + done.stderr
    until(lambda: lab.service.jobs == {})
    assert len(lab.service.released) == 1
    assert lab.service.demands[0]["host1"]["gpus"] == 1


def test_a_service_without_certificates_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(
        "from devenv.testing import hardware_config\n@hardware_config(hardware={'a': {}})\ndef test_it(): pass\n"
    )
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--provisioner=https://localhost:1"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "needs an option or a variable for HABERTEST_SSL_CERT, HABERTEST_SSL_KEY" in done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout


@pytest.mark.parametrize("answer", [{}, {"hardware_details": None}, {"hardware_details": [{"user": "x"}, {"ip": "y"}]}])
def test_an_answer_without_machines_is_an_error(answer: dict[str, Any]) -> None:
    with pytest.raises(AllocationFailed, match="requested 2 machines with an address, but the answer has"):
        habertest.machines(["a", "b"], answer)
