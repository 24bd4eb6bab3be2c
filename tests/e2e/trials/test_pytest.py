"""The pytest plugin together with other plugins, and its hooks, on the machines of an existing environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import Typed, shown

pytestmark = pytest.mark.cluster

CONFTEST = """
def record(name, *values):
    with open("record", "a") as stream:
        print(name, *values, file=stream)

def pytest_addoption(parser): parser.addoption("--hardware", default="ours")
def pytest_before_provisioning(name, demand): record("before_provisioning")
def pytest_after_provisioning(name, demand): record("after_provisioning")
def pytest_after_devops_installer(base_config, request): record("after_devops_installer")
def pytest_after_base_config(base_config, request): record("after_base_config", request.node.name)
def pytest_clean_between_tests(host, item): record("clean_between_tests", host.SshDirect.execute("hostname").strip())
def pytest_clean_base_btwn_tests(base_config, item): record("clean_base_btwn_tests", *base_config.clusters)
def pytest_after_test(item, base_config): record("after_test", item.name)
def pytest_download_logs(host, dest_dir): record("download_logs", host.name, (dest_dir / "journal.txt").exists())
def pytest_before_release(name): record("before_release")
def pytest_after_release(name, taken_down): record("after_release", taken_down)
def pytest_before_group_items(session, config, items): record("before_group_items", len(items))
def pytest_can_run_together(item1, item2): record("can_run_together", item1.name, item2.name)
def pytest_after_group_items(session, config, items): record("after_group_items", len(items))
def pytest_started_handling_group(session, worker): record("started_handling_group", worker.id)
def pytest_finished_handling_group(session, worker): record("finished_handling_group")
def pytest_start_subprocess(item, worker): record("start_subprocess", worker.id)
def pytest_before_running_test(item): record("before_running_test", item.name)
def pytest_after_running_test(item): record("after_running_test", item.name)
def pytest_end_subprocess(item, worker): record("end_subprocess", item.name)
"""
PLUGINS = """
import asyncio, os, sys, unittest, warnings
from pathlib import Path
import pytest
from devenv.testing import hardware_config

one = hardware_config(hardware={"host1": {}}, grouping={"cluster1": {"hosts": ["host1"]}})
pytestmark = one

@pytest.fixture
def skips(base_config): pytest.skip(base_config.hosts.host1.SshDirect.execute("echo no room on $(hostname)"))

@pytest.mark.flaky(reruns=2)
def test_flaky(base_config):
    tries = Path("tries")
    tries.write_text((tries.read_text() if tries.exists() else "") + "x")
    assert base_config.hosts.host1.SshDirect.execute(f"echo {tries.read_text()}") == "xx\\n"

@pytest.mark.asyncio
async def test_async(base_config):
    ssh = base_config.hosts.host1.SshDirect
    texts = await asyncio.gather(*(asyncio.to_thread(ssh.execute, f"echo {n}") for n in range(2)))
    assert texts == ["0\\n", "1\\n"]

@pytest.mark.timeout(3, func_only=True)
def test_timeout(base_config): base_config.hosts.host1.SshDirect.execute("sleep 4731")

@hardware_config(hardware={"host1": {}}, grouping={"cluster1": {"hosts": ["host1"]}}, timeout=15)
def test_own_limit(base_config): base_config.hosts.host1.SshDirect.execute("sleep 4732")

def test_after_the_timeouts(base_config):
    assert base_config.hosts.host1.SshDirect.execute("hostname") == "master-0\\n"

def test_skips(skips): pass

@pytest.mark.xfail(strict=True)
def test_strict(base_config): pass

def test_warns(base_config): warnings.warn("careful")

def test_exits(base_config): sys.exit(3)

def test_subtests(base_config, subtests):
    for node in base_config.clusters.cluster1.Kubectl.get_nodes():
        with subtests.test(node.metadata.name): assert node.metadata.name == "none"

class TestCase(unittest.TestCase):
    def test_ready(self): self.assertEqual(len(self.base_config.clusters.cluster1.Kubectl.get_nodes()), 1)
    def test_fails(self): self.assertEqual(self.base_config.hosts.host1.SshDirect.execute("id -un"), "nobody")

@pytest.mark.parametrize("n", [1, 2])
def test_last(base_config, n): os.environ.get("CRASH") and os._exit(9)
"""


@pytest.fixture
def project(user: Typed, tmp_path: Path) -> Typed:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:cacheprovider --color=no\nasyncio_default_fixture_loop_scope = function\n"
    )
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(PLUGINS)
    return Typed(user.home, tmp_path)


@pytest.mark.parametrize("mode", ["default", pytest.param("isolated", marks=pytest.mark.nightly)])
def test_other_plugins(trial: str, project: Typed, mode: str) -> None:
    options, failed = [], 7
    if mode == "isolated":
        options, failed = ["--devenv-isolate", "--deselect=test_it.py::test_own_limit"], 6
    done = project.run("pytest", "-q", "--junitxml=out.xml", f"--devenv-env={trial}", *options, code=1)
    last = done.stdout.splitlines()[-1]
    for count in (f"{failed} failed", "7 passed", "1 skipped", "1 warning", "1 rerun"):
        assert count in last, shown(done)
    assert "Timeout (>3.0s) from pytest-timeout" in done.stdout
    assert ("the test took longer than 15 s" in done.stdout) == (mode == "default")
    assert "no room on master-0" in (project.cwd / "out.xml").read_text()


def test_a_crash(trial: str, project: Typed) -> None:
    words = ("pytest", "-q", f"--devenv-env={trial}", "-k", "test_last")
    assert "2 failed" in project.run(*words, "--devenv-isolate", code=1, env={"CRASH": "1"}).stdout
    project.run(*words, code=9, env={"CRASH": "1"})
    # The environment is not ours: it remains.
    project.devenv("status", "--name", trial)


@pytest.mark.parametrize("mode", ["default", pytest.param("isolated", marks=pytest.mark.nightly)])
def test_hooks(trial: str, project: Typed, mode: str) -> None:
    options = ["--devenv-isolate"] if mode == "isolated" else []
    words = ("pytest", "-q", f"--devenv-env={trial}", "--install", "--devenv-logs=logs", "-k", "test_last")
    project.run(*words, *options)
    first = [
        "before_provisioning",
        "after_provisioning",
        "after_devops_installer",
        "after_base_config test_last[1]",
        "after_test test_last[1]",
        "download_logs host1 True",
    ]
    second = [
        "clean_between_tests master-0",
        "clean_base_btwn_tests cluster1",
        "after_base_config test_last[2]",
        "after_test test_last[2]",
        "download_logs host1 True",
    ]
    if mode == "isolated":
        for number, lines in ((1, first), (2, second)):
            test = f"test_last[{number}]"
            lines[:0] = ["start_subprocess main", f"before_running_test {test}"]
            lines += [f"after_running_test {test}", f"end_subprocess {test}"]
    group = [
        "before_group_items 2",
        "can_run_together test_last[1] test_last[2]",
        "after_group_items 2",
        "started_handling_group main",
    ]
    last = ["finished_handling_group", "before_release", "after_release False"]
    expected = [*group, *first, *second, *last]
    assert (project.cwd / "record").read_text().splitlines() == expected
