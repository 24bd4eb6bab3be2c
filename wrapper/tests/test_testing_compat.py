"""Test suites of pytest_automation_infra, unchanged, with the plugins of devenv-lab-compat."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from automation_infra.plugins.ssh_direct import SSHCalledProcessError
from automation_infra.utils import concurrently, waiter
from doubles import habertest as double
from pytest_subprocessor import split
from support import allocators

from devenv.testing.errors import CommandFailed

ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(ROOT / "compat" / "src"), str(ROOT / "tests")]
PYTEST = ("python", "-m", "pytest", "-p", "pytest_subprocessor")
PAPER = "--devenv-allocator=support.allocators:Paper"

# As conftests of such suites are: the hooks have the arguments of the original.
CONFTEST = """
import json, logging, os
import pytest
from infra.model import cluster_plugins, plugins
from automation_infra.utils import concurrently, waiter
from automation_infra.plugins.ssh_direct import SSHCalledProcessError
from pytest_automation_infra import determine_scope, helpers


def record(name, *values):
    with open(os.environ["RECORD"], "a") as stream:
        stream.write(json.dumps([name, *values]) + "\\n")


class Camera(object):
    def __init__(self, host):
        self._host = host

    def ping(self):
        raise AssertionError("only tests call it")

    def name(self):
        return f"camera of {self._host.alias}"


class Rancher(object):
    def __init__(self, cluster):
        self._cluster = cluster

    def hosts(self):
        return sorted(self._cluster.hosts)


plugins.register("Camera", Camera)
cluster_plugins.register("Rancher", Rancher)


@pytest.fixture(scope=determine_scope)
def data():
    return "data"


def pytest_before_provisioning(item): record("before_provisioning", item.name)
def pytest_after_provisioning(item): record("after_provisioning", item.function.__name__)
def pytest_before_release(): record("before_release")
def pytest_after_release(): record("after_release")
def pytest_build_items_iter(session, workers): record("build_items_iter", len(session.items), len(workers))
def pytest_get_next_item(session, worker): record("get_next_item")
def pytest_started_handling_group(session, worker): record("started_handling_group")
def pytest_finished_handling_group(session, worker): record("finished_handling_group")
def pytest_start_subprocess(item, worker): record("start_subprocess", item.name, os.environ["HABERTEST_SESSION_ID"])
def pytest_before_running_test(item): record("before_running_test", item.name)
def pytest_after_running_test(item): record("after_running_test", item.name)
def pytest_end_subprocess(item, worker): record("end_subprocess", item.name)


@pytest.hookimpl(tryfirst=True)
def pytest_after_base_config(base_config, request):
    record("after_base_config", sorted(request.function.__hardware_reqs))


def pytest_after_devops_installer(base_config, request): record("after_devops_installer")
def pytest_clean_between_tests(host, item): record("clean_between_tests", host.alias)
def pytest_clean_base_btwn_tests(base_config, item): record("clean_base_btwn_tests")
def pytest_after_test(item, base_config): record("after_test", item.name)
"""
TESTS = """
import logging, os
import pytest
from pytest_automation_infra.helpers import hardware_config

@hardware_config(hardware={"host1": {"hardware_type": "vm", "base_image": "k8s_base", "installer": "k8s"},
                           "host2": {"hardware_type": "vm", "base_image": "k8s_base"}},
                 grouping={"cluster1": {"hosts": ["host1", "host2"]}})
def test_temp(base_config, data):
    host = base_config.hosts.host1
    assert base_config.clusters.cluster1.hosts.host1 is host
    assert host.Camera.name() == "camera of host1"
    assert base_config.clusters.cluster1.Rancher.hosts() == ["host1", "host2"]
    assert os.environ["HABERTEST_SESSION_ID"]
    logging.debug("details of process %s", os.getpid())
    logging.info("token: Bearer abcdefghijklmnopqrstuvwxyz")

@hardware_config(hardware={"host1": {"hardware_type": "vm", "base_image": "k8s_base", "installer": "k8s"},
                           "host2": {"hardware_type": "vm", "base_image": "k8s_base"}},
                 grouping={"cluster1": {"hosts": ["host1", "host2"]}})
def test_fails(base_config):
    logging.info("in process %s", os.getpid())
    assert base_config is None

def test_crashes():
    os._exit(3)
"""


@dataclass(frozen=True)
class Suite:
    """A project with tests in ``tests``."""

    folder: Path
    home: Path

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def run(self, *argv: str, code: int = 0, **env: str) -> str:
        """Run ``python ARGV`` in the folder; return the output."""
        hidden = ("PYTEST_", "DEVENV_", "HABERTEST_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
        ours = {
            "DEVENV_HOME": str(self.home), "HOME": str(self.folder.parent), "PYTHONPATH": os.pathsep.join(PATHS),
            "RECORD": str(self.folder / "record"),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, *argv], cwd=self.folder, env={**kept, **ours, **env}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def pytest(self, *options: str, code: int = 0, **env: str) -> str:
        return self.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", *options, code=code, **env)

    def record(self) -> list[list[object]]:
        path = self.folder / "record"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def events(self, kind: str) -> list[str]:
        return [name for event, name in allocators.events(self.home) if event == kind]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    suite = Suite(tmp_path / "project", tmp_path / "home")
    suite.write("pytest.ini", "[pytest]\n")
    # The hosts are no machines.
    suite.write("devenv-testing.yml", "installers: {k8s: {engine: kubeadm}}\n")
    suite.write("tests/conftest.py", CONFTEST)
    suite.write("tests/test_temp.py", TESTS)
    return suite


# --- the documented command lines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["-p", "pytest_subprocessor", "tests", "--sf=-p pytest_devops_infra --install"],
        [*PYTEST, "--sf=-p pytest_automation_infra -p pytest_devops_infra --install", "-s", "tests/test_temp.py"],
        # With the quotes that the original's scripts need.
        [*PYTEST, '--sf="-p', "pytest_automation_infra", "-p", "pytest_devops_infra", '--install"', "-s", "tests"],
    ],
)
def test_the_documented_command_lines_run_an_old_suite(suite: Suite, words: list[str]) -> None:
    out = suite.run("-m", "devenv", "test", "run", *words, code=1, PYTEST_ADDOPTS=PAPER)
    assert "2 failed, 1 passed" in out
    assert "the test process exited with code 3" in out
    assert len(suite.events("made")) == len(suite.events("down")) == 1
    names = [name for name, *_ in suite.record()]
    test = ["start_subprocess", "before_running_test", "after_running_test", "end_subprocess"]
    assert names == [
        "build_items_iter",
        *test,
        "started_handling_group",
        *test[:2],
        "before_provisioning", "after_provisioning", "after_devops_installer", "after_base_config", "after_test",
        *test[2:],
        *test[:2],
        "clean_between_tests", "clean_between_tests", "clean_base_btwn_tests", "after_base_config", "after_test",
        *test[2:],
        "finished_handling_group", "before_release", "after_release",
    ]  # fmt: skip
    record = suite.record()
    assert ["build_items_iter", 3, 1] in record
    assert ["before_provisioning", "test_temp"] in record
    assert ["after_base_config", ["host1", "host2"]] in record
    # One id for the whole run, and a warning about the hook that has no meaning here.
    assert len({row[2] for row in record if row[0] == "start_subprocess"}) == 1
    assert "pytest_get_next_item is not called" in out


def test_logs_are_linked_by_outcome(suite: Suite) -> None:
    options = ["-p", "pytest_subprocessor", "--sf=-p pytest_automation_infra --install", PAPER]
    suite.pytest(*options, "--logs-dir=out", "--session-id=run-7", "-k", "fails or crashes", code=1)
    # Tests that failed before may pass.
    suite.write("tests/test_temp.py", TESTS.replace("os._exit(3)", "pass"))
    suite.pytest(*options, "--logs-dir=out", "--session-id=run-7", code=1)
    top = suite.folder / "out"
    name = "tests_test_temp.py_"
    assert [path.name for path in (top / "failed").iterdir()] == [f"{name}test_fails"]
    assert sorted(path.name for path in (top / "passed").iterdir()) == [f"{name}test_crashes", f"{name}test_temp"]
    folder = top / "passed" / f"{name}test_temp"
    assert folder.is_symlink()
    debug, info = ((folder / file).read_text() for file in ("debug.log", "info.log"))
    assert "details of process" in debug
    assert "details of process" not in info
    assert "token" in info
    assert "abcdefghijklmnopqrstuvwxyz" not in debug + info
    # A process per test: its number is in the log of this test only.
    pids = {
        re.findall(r"process (\d+)", path.read_text())[-1]
        for path in top.glob("tests/*/debug.log")
        if path.stat().st_size
    }
    assert len(pids) == 2
    assert {row[2] for row in suite.record() if row[0] == "start_subprocess"} == {"run-7"}


def test_without_options_logs_have_a_folder_per_run(suite: Suite) -> None:
    suite.write("tests/test_temp.py", "def test_a(): pass\n")
    suite.pytest("-p", "pytest_subprocessor", "--sf=-p pytest_automation_infra")
    (run,) = (suite.folder / "logs").iterdir()
    assert re.fullmatch(r"\d{4}(_\d\d){2}__\d{4}_\d\d", run.name)
    assert (run / "passed" / "tests_test_temp.py_test_a" / "debug.log").is_file()
    # Nothing runs in this mode.
    suite.pytest("-p", "pytest_subprocessor", "--sf=-p pytest_automation_infra", "--collect-only", "--logs-dir=none")
    assert not (suite.folder / "none").exists()


def test_flags_are_split_into_words() -> None:
    assert split("-p a --install") == ["-p", "a", "--install"]
    assert split('"-p a"') == ["-p", "a"]
    assert split("-k 'a or b'") == ["-k", "a or b"]
    assert split('{"machines": {}}') == ['{"machines": {}}']


def test_flags_are_those_of_the_run(suite: Suite) -> None:
    suite.write("tests/test_temp.py", "import os\ndef test_a(): os.write(1, b'un' b'captured')\ndef test_b(): pass\n")
    out = suite.pytest("-p", "pytest_subprocessor", "--sf=-s", "--sf=-k test_a", "-p", "pytest_automation_infra")
    assert "1 passed, 1 deselected" in out
    assert "uncaptured" in out
    out = suite.pytest("-p", "pytest_subprocessor", "--sf=-p no_such_plugin", code=4)
    assert "no_such_plugin" in out


def test_test_run_needs_its_package(suite: Suite) -> None:
    out = suite.run("-m", "devenv", "test", "run", "tests", code=2, PYTHONPATH=PATHS[1])
    assert "pip install devenv-lab-compat" in out
    out = suite.run("-m", "devenv", "test", "run", "--mount=/tmp", "tests", code=2)
    assert "--mount has no effect without --container" in out


# --- machines ---------------------------------------------------------------------------------------------------------

MODULE = '''
import os, time
from pathlib import Path
from pytest_automation_infra.helpers import hardware_config

def together(name):
    """Wait until two tests run at the same time."""
    Path(os.environ["RECORD"] + "." + name).touch()
    end = time.monotonic() + 60
    while len(list(Path(os.environ["RECORD"]).parent.glob("record.*"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)

@hardware_config(hardware={"host1": {}})
def test_a(base_config): together("a")
@hardware_config(hardware={"host1": {}})
def test_b(base_config): together("b")
'''


def test_parallel_tests_have_machines_of_their_own(suite: Suite) -> None:
    (suite.folder / "tests" / "conftest.py").unlink()
    suite.write("tests/test_temp.py", MODULE)
    options = ["-p", "pytest_subprocessor", "-p", "pytest_grouper", "--sf=-p pytest_automation_infra", PAPER]
    assert "2 passed" in suite.pytest(*options, "--num-parallel=2")
    assert len(set(suite.events("made"))) == 2
    assert sorted(suite.events("made")) == sorted(suite.events("down"))
    out = suite.pytest(*options, "--num-parallel=2", "-p", "no:xdist", code=4)
    assert "--num-parallel 2 needs the plugin pytest-xdist" in out


@dataclass(frozen=True)
class Service:
    service: double.Service
    env: dict[str, str]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    files = {name: tmp_path / f"{name}.pem" for name in ("key", "cert")}
    words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(files["key"]), "-out", str(files["cert"])]
    subprocess.run(["openssl", "req", "-x509", *words], check=True, capture_output=True)
    machines = [{"ip": f"192.0.2.{number}", "user": "root", "pem_key_string": "KEY"} for number in range(1, 5)]
    server = double.Server(double.Service(machines), files["cert"], files["key"], files["cert"])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    variables = {"PROVISIONER": server.url, "HEARTBEAT_SERVER": server.url, "SSL_CA": str(files["cert"])}
    variables |= {"SSL_CERT": str(files["cert"]), "SSL_KEY": str(files["key"])}
    yield Service(server.service, {f"HABERTEST_{name}": value for name, value in variables.items()})
    server.shutdown()
    thread.join()
    server.server_close()


def test_machines_of_a_service_are_shared_in_a_folder(suite: Suite, service: Service) -> None:
    (suite.folder / "tests" / "conftest.py").unlink()
    (suite.folder / "tests" / "test_temp.py").unlink()
    text = """
        from pytest_automation_infra.helpers import hardware_config
        @hardware_config(hardware={"host1": {"base_image": "their_image"}})
        def test_1(base_config): assert base_config.hosts.host1.ip.startswith("192.0.2.")
        @hardware_config(hardware={"host1": {"base_image": "their_image"}})
        def test_2(base_config): pass
    """
    for name in ("a", "b"):
        suite.write(f"tests/{name}/test_{name}.py", text)
    # Only for runs without a service.
    suite.write("../.local/hardware.yaml", "host: {ip: 192.0.2.99}\n")
    # Also without --provisioner, as run/env_vars.sh does it. test run adds pytest_grouper.
    assert "4 passed" in suite.run("-m", "devenv", "test", "run", "tests", **service.env)
    assert service.service.demands == [{"host1": {"base_image": "their_image", "hardware_type": "vm"}}] * 2
    assert len(service.service.released) == 2
    # Without it, each test has machines of its own.
    plugins = ["-p", "pytest_subprocessor", "-p", "pytest_provisioner", "--sf=-p pytest_automation_infra"]
    assert "4 passed" in suite.pytest(*plugins, "tests", **service.env)
    assert len(service.service.demands) == len(service.service.released) == 6


@pytest.mark.parametrize("option", ["default", "--hardware", "--provisioned-hardware", "text"])
def test_files_of_machines_have_the_formats_of_the_original(suite: Suite, option: str) -> None:
    machine = {"ip": "192.0.2.7", "user": "root", "password": "s3cret", "alias": "monster"}
    text = json.dumps({"machines": {"host": machine}, "allocation_id": "x"})
    values = {
        "default": [],
        "--hardware": [f"--hardware={suite.write('machines.yaml', json.dumps({'host': machine}))}"],
        "--provisioned-hardware": [f"--provisioned-hardware={suite.write('machines.json', text)}"],
        "text": [f"--provisioned-hardware={text}"],
    }
    if option == "default":
        suite.write("../.local/hardware.yaml", json.dumps({"host": machine}))
    (suite.folder / "tests" / "conftest.py").unlink()
    suite.write("tests/test_temp.py", """
        from pytest_automation_infra.helpers import hardware_config
        @hardware_config(hardware={"host1": {}})
        def test_a(base_config): assert base_config.hosts.host1.ip == "192.0.2.7"
    """)  # fmt: skip
    out = suite.pytest("-p", "pytest_subprocessor", "--sf=-p pytest_automation_infra", *values[option])
    assert "1 passed" in out


def test_extra_tests_are_marked(suite: Suite) -> None:
    (suite.folder / "tests" / "conftest.py").unlink()
    suite.write("tests/test_temp.py", "def test_a(): pass\n")
    suite.write("tests/test_more.py", "def test_b(): pass\n")
    plugin = ["-p", "pytest_automation_infra", "-m", "extra", "--extra-tests=test_more.py,test_none.py"]
    assert "1 passed, 1 deselected" in suite.pytest(*plugin)


# --- names that old tests import --------------------------------------------------------------------------------------


def test_names_that_old_tests_import(suite: Suite) -> None:
    suite.write("names.py", """
        from infra.model import cluster_plugins, plugins
        from infra.model.cluster import Cluster
        from infra.model.host import Host
        from automation_infra.plugins import admin, ip_table, power, ssh, tunnel_manager
        from automation_infra.plugins.ssh_direct import SshDirect, SSHCalledProcessError
        from automation_infra.utils.waiter import wait_for_predicate, wait_for_predicate_nothrow
        from devops_automation_infra.k8s_plugins.gravity import Gravity
        from devops_automation_infra.k8s_plugins.helm import Helm
        from devops_automation_infra.k8s_plugins.k8s_master import K8SMaster
        from devops_automation_infra.k8s_plugins.kubectl import Kubectl
        from devops_automation_infra.k8s_plugins.proxy_daemonset import ProxyDaemonSet
        from pytest_automation_infra import helpers
        from devops_automation_infra.own import VALUE
        assert admin.Admin and power.Power and ip_table.Iptables and helpers.is_k8s and VALUE == 1
    """)  # fmt: skip
    # A project can have modules of its own in the namespaces.
    suite.write("devops_automation_infra/own.py", "VALUE = 1\n")
    suite.run("names.py")


def test_waiting() -> None:
    results = iter([0, 0, 3])
    assert waiter.wait_for_predicate(lambda: next(results), interval=0.01) == 3
    with pytest.raises(TimeoutError, match="timed out"):
        waiter.wait_for_predicate(lambda: False, timeout=0.02, interval=0.01)
    with pytest.raises(TimeoutError, match="ZeroDivisionError"):
        waiter.wait_for_predicate_nothrow(lambda: 1 // 0, timeout=0.02, interval=0.01)
    assert waiter.wait_nothrow(lambda: None, timeout=0) is None
    with pytest.raises(ZeroDivisionError):
        waiter.wait_for_predicate_nothrow(lambda: 1 // 0, exception_cls=OSError)


def test_calls_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=60)
    assert sorted(concurrently.run([barrier.wait, (barrier.wait,), barrier.wait]).values()) == [0, 1, 2]
    assert concurrently.run({"a": (pow, 2, 3)}) == {"a": 8}
    assert concurrently.run([]) == {}
    with pytest.raises(TimeoutError):
        concurrently.run([(time.sleep, 0.2)], job_timeout=0.01)


def test_an_error_of_a_command_has_both_sets_of_attributes() -> None:
    error = SSHCalledProcessError(CommandFailed("host1", "ls", 2, "out", "No such file"))
    assert isinstance(error, subprocess.CalledProcessError)
    assert (error.returncode, error.cmd, error.output, error.stderr) == (2, "ls", "out", "No such file")
    assert (error.code, error.stdout, error.host) == (2, "out", "host1")
    assert str(error) == "host1: 'ls' ended with 2: No such file"
