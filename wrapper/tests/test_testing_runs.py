"""Complete runs of pytest in a separate process, with an allocator whose environments are folders."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import allocators

TESTS = Path(__file__).resolve().parents[2] / "tests"
CONFTEST = """
import pytest
from devenv.testing import Installer, limit, register_installer

limit.PATIENCE = 10.0


class Fake(Installer):
    engine = "kubeadm"


register_installer("fake", Fake)
"""
HEAD = """
import os, signal, time
import pytest
from devenv.testing import hardware_config

cluster_installer = "fake"
one = hardware_config(hardware={"host1": {}}, grouping={"c": {"hosts": ["host1"]}})
two = hardware_config(hardware={"host1": {}, "host2": {}}, grouping={"c": {"hosts": ["host1"]}})
"""


@dataclass(frozen=True)
class Project:
    """A project with tests."""

    folder: Path
    home: Path

    def write(self, text: str, name: str = "test_it.py") -> None:
        (self.folder / name).write_text(HEAD + textwrap.dedent(text))

    def start(self, *options: str, install: bool = True, **env: str) -> subprocess.Popen[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "DEVENV_"))}
        argv = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--color=no"]
        # They take time to load, and test_testing_plugins.py covers them.
        argv += [word for name in ("asyncio", "html", "metadata", "hypothesispytest") for word in ("-p", f"no:{name}")]
        argv += ["--devenv-allocator=support.allocators:Paper", *(["--install"] if install else []), *options]
        return subprocess.Popen(
            argv,
            cwd=self.folder,
            env={**kept, "DEVENV_HOME": str(self.home), "PYTHONPATH": str(TESTS), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A background job of a shell ignores SIGINT, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # type: ignore[arg-type, return-value]
        )

    def run(self, *options: str, code: int = 0, install: bool = True, **env: str) -> str:
        child = self.start(*options, install=install, **env)
        out = ended(child)
        assert child.returncode == code, out
        return out

    def events(self, kind: str = "") -> list[str]:
        """Return all events with their names, or the names of the events of one kind, in their order."""
        events = allocators.events(self.home)
        return [name if kind else f"{event} {name}" for event, name in events if kind in ("", event)]

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.events()
            time.sleep(0.05)

    def remaining(self) -> list[str]:
        """Return the environments that still exist."""
        return sorted(path.name for path in (self.home / "paper").glob("*"))


def ended(child: subprocess.Popen[str], seconds: float = 180) -> str:
    """Return the output of a run; kill it if it does not end."""
    try:
        return child.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        child.kill()
        raise AssertionError(child.communicate()[0]) from None


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CONFTEST)
    return Project(folder, tmp_path / "home")


def counts(out: str) -> dict[str, int]:
    return {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", out.splitlines()[-1])
    }


# --- sharing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--devenv-isolate"]])
def test_twenty_tests_share_one_environment(project: Project, options: list[str]) -> None:
    project.write("""
        @one
        @pytest.mark.parametrize("n", range(20))
        def test_a(base_config, n):
            assert base_config.clusters.c.hosts.host1 is base_config.hosts.host1
    """)
    assert counts(project.run(*options)) == {"passed": 20}
    (name,) = project.events("made")
    assert project.events() == [f"up {name}", f"made {name}", f"down {name}"]
    assert [path.name for path in (project.home / "testing").glob("[!.]*")] == []


@pytest.mark.parametrize(("scope", "ups"), [("session", 1), ("module", 2), ("function", 4)])
def test_the_scope_determines_the_number_of_environments(project: Project, scope: str, ups: int) -> None:
    for name in ("test_a.py", "test_b.py"):
        project.write("""
            @one
            def test_1(base_config): pass
            @one
            def test_2(base_config): pass
        """, name)  # fmt: skip
    assert counts(project.run("--fixture-scope", scope)) == {"passed": 4}
    assert len(project.events("made")) == len(project.events("down")) == len(set(project.events("made"))) == ups
    # One after the other: never more than necessary at once.
    assert [line.split()[0] for line in project.events()] == ["up", "made", "down"] * ups


def test_every_test_gets_its_own_demand_and_tests_are_sorted_by_demand(project: Project) -> None:
    project.write("""
        @pytest.fixture(autouse=True)
        def order(request): open("order", "a").write(request.node.name + " ")
        @one
        def test_1(base_config): assert list(base_config.hosts) == ["host1"]
        def test_plain(): pass
        @two
        def test_2(base_config): assert list(base_config.hosts) == ["host1", "host2"]
        @one
        def test_3(base_config): assert list(base_config.hosts) == ["host1"]
    """)
    assert counts(project.run()) == {"passed": 4}
    assert (project.folder / "order").read_text().split() == ["test_plain", "test_1", "test_3", "test_2"]
    assert [line.split()[0] for line in project.events()] == ["up", "made", "down"] * 2


def test_an_environment_is_removed_after_its_last_test_though_others_were_skipped(project: Project) -> None:
    project.write("""
        @one
        @pytest.mark.skip
        def test_1(base_config): pass
        @one
        def test_2(base_config): pass
        @pytest.fixture
        def fails(): raise RuntimeError("before base_config")
        @one
        def test_3(fails, base_config): pass
        @two
        def test_4(base_config): pass
    """)
    assert counts(project.run(code=1)) == {"passed": 2, "skipped": 1, "error": 1}
    assert [line.split()[0] for line in project.events()] == ["up", "made", "down"] * 2


def test_changed_dictionaries_do_not_change_a_demand(project: Project) -> None:
    project.write("""
        hosts = {"host1": {"cpus": 2}}
        same = hardware_config(hardware=hosts, grouping={"c": {"hosts": ["host1"]}})
        hosts.pop("host1")
        @same
        def test_1(base_config, request):
            for mark in request.node.iter_markers("hardware_config"):
                mark.kwargs["hardware"].clear()
        @same
        def test_2(base_config): assert list(base_config.hosts) == ["host1"]
    """)
    assert counts(project.run()) == {"passed": 2}
    assert len(project.events("made")) == 1


def test_the_closest_marker_counts(project: Project) -> None:
    project.write("""
        pytestmark = one
        def test_module(base_config): assert len(base_config.hosts) == 1
        @two
        class TestClass:
            def test_class(self, base_config): assert len(base_config.hosts) == 2
            @pytest.mark.hardware_config({"a": {}, "b": {}, "c": {}})
            def test_function(self, base_config): assert list(base_config.hosts) == ["a", "b", "c"]
        def test_without_the_fixture(): assert "base_config"
    """)
    assert counts(project.run()) == {"passed": 4}


def test_a_second_run_reuses_the_environments_of_the_first(project: Project) -> None:
    project.write("""
        @one
        def test_1(base_config): pass
    """)
    out = project.run("--devenv-reuse")
    (name,) = project.remaining()
    assert f"{name}: kept" in out
    # Without --install it is used unchanged; with --install it converges.
    project.run("--devenv-reuse", install=False)
    assert project.events("up") == [name]
    project.run("--devenv-reuse")
    assert project.events("up") == [name, name]
    assert project.events("down") == []


def test_without_install_a_cluster_is_not_created(project: Project) -> None:
    project.write("""
        @one
        def test_1(base_config): pass
        @hardware_config(hardware={"host1": {}})
        def test_bare(base_config): assert base_config.hosts.host1.ip == "127.0.0.1"
    """)
    out = project.run(install=False, code=1)
    assert "no ready cluster for c; --install creates one" in out
    assert counts(out)["passed"] == 1
    assert len(project.events("up")) == 1


def test_a_failed_allocation_fails_each_test_and_is_tried_once(project: Project) -> None:
    project.write("""
        @one
        def test_1(base_config): pass
        @one
        def test_2(base_config): pass
        def test_3(): pass
    """)
    out = project.run(code=1, PAPER_FAIL="the moon is full")
    assert "the moon is full" in out
    assert counts(out) == {"passed": 1, "errors": 2}
    assert [line.split()[0] for line in project.events()] == ["up", "down"]


def test_settings_that_no_profile_accepts_fail_the_test_and_not_pytest(project: Project) -> None:
    project.write("""
        @one
        def test_1(base_config): pass
        def test_2(): pass
    """)
    out = project.run("--devenv-allocator=devenv", "--devenv-set=kubernetes.gravity.flavor=x", code=1)
    assert "kubernetes.gravity.flavor: settings of the engine gravity, and the engine is kubeadm" in out
    assert "INTERNALERROR" not in out
    assert counts(out) == {"passed": 1, "error": 1}


# --- collection -------------------------------------------------------------------------------------------------------


def test_mistakes_are_reported_at_collection_with_the_name_of_the_test(project: Project) -> None:
    project.write("""
        @hardware_config(hardware={"host1": {}}, grouping={"c": {"hosts": ["host1", "host2"]}})
        def test_wrong(base_config): pass
    """)
    project.write("def test_right(): pass", "test_other.py")
    out = project.run(code=2)
    assert "test_it.py::test_wrong: grouping.c.hosts: host2 is not declared in hardware, which has host1" in out
    assert "Traceback" not in out
    assert project.events() == []


def test_base_config_without_hardware_config_is_an_error(project: Project) -> None:
    project.write("def test_bad(base_config): pass")
    assert "test_it.py::test_bad: uses base_config, but has no hardware_config" in project.run(code=2)


# --- hangs and crashes ------------------------------------------------------------------------------------------------

CRASHES = {
    "signal": ("os.kill(os.getpid(), signal.SIGSEGV)", "the test process was killed by SIGSEGV", -signal.SIGSEGV),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", "the test process was killed by SIGKILL", -signal.SIGKILL),
    "exit": ("os._exit(66)", "the test process exited with code 66 during the test", 66),
}


@pytest.mark.parametrize("how", CRASHES)
def test_a_crash_in_isolation_fails_one_test_and_the_others_run(project: Project, how: str) -> None:
    crash, message, _ = CRASHES[how]
    project.write(f"""
        @one
        def test_1(base_config): pass
        @one
        def test_2(base_config): {crash}
        @one
        def test_3(base_config): pass
        @two
        def test_4(base_config): pass
        def test_without_hardware(): {crash}
    """)
    out = project.run("--devenv-isolate", code=1)
    assert counts(out) == {"passed": 3, "failed": 2}
    assert message in out
    assert len(project.events("made")) == len(project.events("down")) == 2
    assert project.remaining() == []


def test_an_error_of_a_plugin_in_isolation_fails_one_test(project: Project) -> None:
    with (project.folder / "conftest.py").open("a") as stream:
        stream.write("@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_protocol(item):\n")
        stream.write("    import os\n    if item.name == 'test_1' and os.getpid() != PARENT: raise KeyError('lost')\n")
        stream.write("import os\nPARENT = os.getpid()\n")
    project.write("""
        @one
        def test_1(base_config): pass
        @one
        def test_2(base_config): pass
    """)
    out = project.run("--devenv-isolate", code=1)
    assert counts(out) == {"passed": 1, "failed": 1}
    assert "KeyError: 'lost'" in out


@pytest.mark.parametrize("options", [[], ["--devenv-isolate"]])
@pytest.mark.parametrize(
    ("statement", "outcome"),
    [
        ("raise KeyError('closed')", {"error": 1}),
        ("pytest.fail('closed')", {"error": 1}),
        ("pytest.skip('closed')", {"skipped": 1}),
    ],
)
def test_a_hook_that_raises_while_machines_are_created_affects_one_test(
    project: Project, options: list[str], statement: str, outcome: dict[str, int]
) -> None:
    with (project.folder / "conftest.py").open("a") as stream:
        stream.write(f"def pytest_before_provisioning(demand):\n    if len(demand.hosts) == 1: {statement}\n")
    project.write("""
        @one
        def test_1(base_config): pass
        @two
        def test_2(base_config): pass
    """)
    out = project.run(*options, code=int("error" in outcome))
    assert counts(out) == {"passed": 1, **outcome}
    assert "closed" in out


@pytest.mark.parametrize("how", ["signal", "exit"])
def test_a_crash_ends_pytest_and_leaves_no_environment(project: Project, how: str) -> None:
    crash, _, code = CRASHES[how]
    project.write(f"""
        @one
        def test_1(base_config): {crash}
        @one
        def test_2(base_config): pass
    """)
    project.run(code=code)
    project.wait_for(lambda: project.remaining() == [])
    assert len(project.events("down")) == 1


@pytest.mark.parametrize("place", ["test", "before", "after"])
@pytest.mark.parametrize("options", [[], ["--devenv-isolate"]])
def test_a_hanging_test_is_stopped_and_its_fixtures_are_finished(
    project: Project, place: str, options: list[str]
) -> None:
    project.write(f"""
        def wait(place):
            if place == "{place}":
                # However slow this machine is, the limit does not strike before.
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                time.sleep(600)
        @pytest.fixture
        def other():
            yield
            open("finished", "w").close()
        @pytest.fixture
        def mine(base_config, other):
            wait("before")
            yield
            wait("after")
        @hardware_config(hardware={{"host1": {{}}}}, timeout=60)
        def test_hangs(mine): wait("test")
        @hardware_config(hardware={{"host1": {{}}}})
        def test_next(base_config): pass
    """)
    out = project.run(*options, code=1)
    assert "the test took longer than 60 s" in out
    assert "in wait" in out or "in mine" in out or ">               time.sleep(600)" in out
    assert (project.folder / "finished").exists()
    assert len(project.events("made")) == 1
    assert project.remaining() == []
    failed = counts(out)
    assert failed.pop("passed") in (1, 2)
    assert failed == ({"failed": 1} if place == "test" else {"error": 1})


TIMER = """
import signal
from devenv.testing import register_host_plugin

def timer(place):
    with open("record", "a") as stream:
        print(place, signal.getitimer(signal.ITIMER_REAL)[0] > 0, file=stream)

class Timed(Fake):
    def install(self, target, base_config, request): timer("install")
    def setup(self, target, base_config, request): timer("setup")
    def teardown(self, target, base_config, request): timer("teardown")

class Mine:
    def __init__(self, host): pass
    def ping(self): timer("ping")
    def reset_state(self): timer("reset_state")

register_installer("fake", Timed)
register_host_plugin("Mine", Mine)

def pytest_before_provisioning(): timer("before_provisioning")
def pytest_after_test(): timer("after_test")
"""


@pytest.mark.parametrize("options", [[], ["--devenv-isolate"]])
def test_the_time_limit_includes_neither_preparation_nor_clean_up(project: Project, options: list[str]) -> None:
    with (project.folder / "conftest.py").open("a") as stream:
        stream.write(TIMER)
    project.write("""
        from conftest import timer
        @pytest.fixture
        def other():
            timer("before")
            yield
            timer("after")
        @one
        def test_1(other, base_config): timer("test")
    """)
    project.run(*options)
    assert (project.folder / "record").read_text().splitlines() == [
        "before True", "before_provisioning False", "install False", "ping False", "setup True", "test True",
        "after_test False", "teardown False", "reset_state False", "after True",
    ]  # fmt: skip


@pytest.mark.parametrize("options", [[], ["--devenv-isolate"]])
def test_a_test_that_is_repeated_has_its_whole_time_limit_again(project: Project, options: list[str]) -> None:
    with (project.folder / "conftest.py").open("a") as stream:
        stream.write("limit.PATIENCE = 0.5\n")
    project.write("""
        @hardware_config(hardware={"host1": {}}, timeout=8)
        @pytest.mark.flaky(reruns=2)
        def test_1(base_config):
            time.sleep(3)
            open("tries", "a").write("x")
            assert len(open("tries").read()) == 3
    """)
    assert counts(project.run(*options)) == {"passed": 1}


def test_the_time_limit_leaves_the_timer_to_others(project: Project) -> None:
    project.write("""
        @hardware_config(hardware={"host1": {}}, timeout=5)
        @pytest.mark.timeout(60)
        def test_pytest_timeout(base_config):
            assert 30 < signal.getitimer(signal.ITIMER_REAL)[0] < 60
        @hardware_config(hardware={"host1": {}}, timeout=50)
        def test_own(base_config):
            assert 30 < signal.getitimer(signal.ITIMER_REAL)[0] < 50
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.alarm(600)
        @hardware_config(hardware={"host1": {}}, timeout=50)
        def test_remains(base_config):
            assert signal.alarm(0)
    """)
    project.run()


def test_pytest_timeout_during_creation_leaves_no_environment(project: Project) -> None:
    project.write("""
        @one
        def test_1(base_config): pass
        def test_2(): pass
    """)
    out = project.run("--timeout=1", code=1, PAPER_SECONDS="30")
    assert "Timeout (>1.0s) from pytest-timeout" in out
    assert counts(out) == {"passed": 1, "error": 1}
    assert project.remaining() == []


def test_a_test_in_isolation_that_ignores_signals_is_killed_with_its_children(project: Project) -> None:
    with (project.folder / "conftest.py").open("a") as stream:
        stream.write("limit.PATIENCE = 2.0\n")
    project.write("""
        import subprocess
        @hardware_config(hardware={"host1": {}}, timeout=10)
        def test_hangs(base_config):
            child = subprocess.Popen(["sleep", "600"])
            open("pid", "w").write(str(child.pid))
            while True:
                try:
                    time.sleep(600)
                except BaseException:
                    pass
        @hardware_config(hardware={"host1": {}})
        def test_next(base_config): pass
    """)
    assert counts(project.run("--devenv-isolate", code=1)) == {"passed": 1, "failed": 1}
    pid = int((project.folder / "pid").read_text())
    project.wait_for(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize(("options", "processes"), [([], 1), (["--devenv-isolate"], 3)])
def test_each_test_has_its_own_process_on_request_only(project: Project, options: list[str], processes: int) -> None:
    project.write("""
        @pytest.fixture(scope="module")
        def shared():
            yield open("processes", "a").write(f"{os.getpid()} ")
            open("finished", "a").write("x")
        @one
        @pytest.mark.parametrize("n", range(2))
        def test_a(base_config, shared, n): pass
        def test_without_hardware(shared): pass
    """)
    child = project.start(*options)
    assert counts(ended(child)) == {"passed": 3}
    pids = (project.folder / "processes").read_text().split()
    assert len(set(pids)) == len(pids) == processes
    assert (str(child.pid) in pids) == (not options)
    assert (project.folder / "finished").read_text() == "x" * processes


HANGS = """
    @pytest.fixture
    def mine(base_config):
        yield
        with open("finished", "w") as stream:
            stream.write(str(os.listdir(os.environ["DEVENV_HOME"] + "/paper")))
    @one
    def test_hangs(base_config, mine):
        open("started", "w").close()
        time.sleep(600)
"""


@pytest.mark.parametrize("options", [[], ["--devenv-isolate"], ["--devenv-keep"]])
def test_after_kill_9_of_pytest_environments_are_removed_or_kept(project: Project, options: list[str]) -> None:
    keep = "--devenv-keep" in options
    project.write(HANGS)
    child = project.start(*options)
    project.wait_for((project.folder / "started").exists)
    children = _below(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    project.wait_for(lambda: not any(_runs(pid) for pid in children))
    assert bool(project.remaining()) == keep
    assert len(project.events("down")) == (0 if keep else 1)


def test_after_kill_9_during_creation_the_environment_is_removed(project: Project) -> None:
    project.write(HANGS)
    child = project.start(PAPER_SECONDS="600")
    project.wait_for(lambda: bool(project.events("up")))
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    project.wait_for(lambda: bool(project.events("down")))


@pytest.mark.parametrize("options", [[], ["--devenv-isolate"]])
def test_ctrl_c_finishes_fixtures_and_removes_environments(project: Project, options: list[str]) -> None:
    project.write(HANGS)
    child = project.start(*options)
    project.wait_for((project.folder / "started").exists)
    child.send_signal(signal.SIGINT)
    out = ended(child)
    assert child.returncode == 2, out
    # The environment exists until the last fixture has finished.
    assert (project.folder / "finished").read_text() == str(project.events("made"))
    assert project.remaining() == []


@pytest.mark.parametrize("options", [[], ["--devenv-isolate"]])
def test_ctrl_c_during_the_install_stage_finishes_fixtures(project: Project, options: list[str]) -> None:
    with (project.folder / "conftest.py").open("a") as stream:
        stream.write("import time\ndef pytest_after_devops_installer():\n")
        stream.write("    open('started', 'w').close()\n    time.sleep(600)\n")
    project.write("""
        @pytest.fixture
        def other():
            yield
            open("finished", "w").close()
        @one
        def test_1(other, base_config): pass
    """)
    child = project.start(*options)
    project.wait_for((project.folder / "started").exists)
    child.send_signal(signal.SIGINT)
    out = ended(child)
    assert child.returncode == 2, out
    assert (project.folder / "finished").exists()
    assert project.remaining() == []


@pytest.mark.parametrize("options", [[], ["--devenv-isolate"]])
def test_pytest_exit_finishes_fixtures_and_removes_environments(project: Project, options: list[str]) -> None:
    project.write(HANGS.replace("time.sleep(600)", "pytest.exit('enough', 7)"))
    project.run(*options, code=7)
    assert (project.folder / "finished").read_text() == str(project.events("made"))
    assert project.remaining() == []


def test_an_error_of_a_fixture_after_an_interruption_keeps_no_environment(project: Project) -> None:
    project.write("""
        @pytest.fixture
        def mine(base_config):
            yield
            raise RuntimeError("too late")
        @one
        def test_1(mine): pytest.exit("enough")
    """)
    child = project.start()
    out = ended(child)
    assert child.returncode, out
    # By pytest itself, not by the guard.
    assert f"{project.events('made')[0]}: removed" in out


def test_option_x_stops_the_run_at_the_first_failure(project: Project) -> None:
    project.write("""
        @one
        def test_1(base_config): assert False
        @one
        def test_2(base_config): pass
    """)
    out = project.run("-x", code=1)
    assert counts(out) == {"failed": 1}
    assert project.remaining() == []


@pytest.mark.parametrize("failed", [False, True])
def test_keep_leaves_an_environment_only_after_a_failure(project: Project, failed: bool) -> None:
    project.write(f"""
        @one
        def test_1(base_config): assert not {failed}
        @one
        def test_2(base_config): pass
    """)
    project.run("--devenv-keep", code=int(failed))
    assert len(project.remaining()) == int(failed)


def test_output_and_properties_of_a_test_in_isolation_reach_the_reports(project: Project) -> None:
    project.write("""
        @one
        def test_1(base_config, record_property):
            print("hello from the child")
            record_property("a", "b")
            record_property("object", lambda: None)
    """)
    out = project.run("--junitxml=out.xml", "--devenv-isolate")
    assert "hello from the child" in out
    properties = (project.folder / "out.xml").read_text()
    assert 'name="a" value="b"' in properties
    assert 'name="object" value="&lt;function' in properties


# --- several processes ------------------------------------------------------------------------------------------------


def test_workers_share_an_environment(project: Project) -> None:
    project.write("""
        @one
        @pytest.mark.parametrize("n", range(8))
        def test_a(base_config, n): time.sleep(0.05)
    """)
    assert counts(project.run("-n", "2")) == {"passed": 8}
    assert len(project.events("made")) == len(project.events("down")) == 1


def test_tests_with_equal_demands_are_one_group_of_xdist(project: Project) -> None:
    project.write("""
        @one
        def test_a(base_config, request):
            assert request.node.get_closest_marker("xdist_group").kwargs["name"] == base_config.environment_name
    """)
    assert counts(project.run("-n", "1", "--dist=loadgroup")) == {"passed": 1}


def test_never_more_environments_than_allowed(project: Project) -> None:
    project.write("""
        @one
        @pytest.mark.parametrize("n", range(3))
        def test_a(base_config, n): time.sleep(0.05)
        @two
        @pytest.mark.parametrize("n", range(3))
        def test_b(base_config, n): time.sleep(0.05)
        @hardware_config(hardware={"x": {}})
        @pytest.mark.parametrize("n", range(3))
        def test_c(base_config, n): time.sleep(0.05)
    """)
    out = project.run("-n", "2", "--devenv-environments=1")
    assert counts(out) == {"passed": 9}
    existing: set[str] = set()
    for line in project.events():
        event, name = line.split()
        if event == "up":
            assert not existing, project.events()
            existing.add(name)
        elif event == "down":
            existing.discard(name)
    assert project.remaining() == []


KILLS = """
    def parent(pid):
        return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    @one
    def test_1(base_config):
        os.kill(TARGET, signal.SIGKILL)
        time.sleep(600)
    @one
    def test_2(base_config): pass
"""


def test_the_run_continues_after_the_starter_was_killed(project: Project) -> None:
    project.write(KILLS.replace("TARGET", "os.getppid()"))
    assert counts(project.run("--devenv-isolate", code=1)) == {"passed": 1, "failed": 1}
    assert project.remaining() == []


@pytest.mark.parametrize(("target", "options"), [("os.getpid()", []), ("parent(os.getppid())", ["--devenv-isolate"])])
def test_a_killed_worker_is_replaced_and_leaves_no_environment(
    project: Project, target: str, options: list[str]
) -> None:
    project.write(KILLS.replace("TARGET", target))
    out = project.run("-n", "1", *options, code=1)
    assert counts(out) == {"passed": 1, "failed": 1}
    assert "crashed while running" in out
    project.wait_for(lambda: project.remaining() == [])


# --- hooks and installers ---------------------------------------------------------------------------------------------


def test_hooks_and_stages_are_called_in_order(project: Project) -> None:
    (project.folder / "conftest.py").write_text(
        textwrap.dedent("""
        from devenv.testing import Installer, register_installer

        def record(*values):
            with open("record", "a") as stream:
                print(*values, file=stream)

        class Fake(Installer):
            engine = "kubeadm"
            def session(self, target, request): record("session", target.name)
            def session_install(self, target, request): record("session_install", target.name)
            def runtest_setup(self, target, request): record("runtest_setup", target.name)
            def setup(self, target, request): record("setup", target.name)
            def teardown(self, target, request): record("teardown", target.name)

        register_installer("fake", Fake)

        def pytest_before_provisioning(name, demand): record("before_provisioning", len(demand.hosts))
        def pytest_after_provisioning(name, demand): record("after_provisioning")
        def pytest_after_devops_installer(base_config, request): record("after_devops_installer", request.node.name)
        def pytest_after_base_config(base_config, request): record("after_base_config", request.node.name)
        def pytest_clean_between_tests(host, item): record("clean_between_tests", host.name, item.name)
        def pytest_clean_base_btwn_tests(base_config, item): record("clean_base_btwn_tests", item.name)
        def pytest_after_test(item, base_config): record("after_test", item.name)
        def pytest_before_release(name): record("before_release")
        def pytest_after_release(name, taken_down): record("after_release", taken_down)
        def pytest_before_group_items(session, config, items): record("before_group_items", len(items))
        def pytest_after_group_items(session, config, items): record("after_group_items", len(items))
        def pytest_started_handling_group(session, worker): record("started_handling_group", worker.id)
        def pytest_finished_handling_group(session, worker): record("finished_handling_group")
        def pytest_start_subprocess(item, worker): record("start_subprocess", worker.id)
        def pytest_before_running_test(item): record("before_running_test", item.name)
        def pytest_after_running_test(item): record("after_running_test", item.name)
        def pytest_end_subprocess(item, worker): record("end_subprocess", item.name)
        """)
    )
    project.write("""
        @one
        def test_1(base_config): pass
        @one
        def test_2(base_config): pass
    """)
    project.run()
    assert (project.folder / "record").read_text().splitlines() == [
        "before_group_items 2", "after_group_items 2", "started_handling_group main",
        "before_provisioning 1", "after_provisioning", "session c", "session_install c",
        "after_devops_installer test_1", "runtest_setup c", "setup c", "after_base_config test_1", "after_test test_1",
        "teardown c",
        "runtest_setup c", "clean_between_tests host1 test_2", "clean_base_btwn_tests test_2", "setup c",
        "after_base_config test_2", "after_test test_2", "teardown c",
        "finished_handling_group", "before_release", "after_release True",
    ]  # fmt: skip
    (project.folder / "record").unlink()
    project.run("--devenv-isolate", "-k", "test_1")
    assert (project.folder / "record").read_text().splitlines() == [
        "before_group_items 1", "after_group_items 1", "started_handling_group main",
        "start_subprocess main", "before_running_test test_1", "before_provisioning 1", "after_provisioning",
        "session c", "session_install c", "after_devops_installer test_1", "runtest_setup c", "setup c",
        "after_base_config test_1", "after_test test_1", "teardown c",
        "after_running_test test_1", "end_subprocess test_1",
        "finished_handling_group", "before_release", "after_release True",
    ]  # fmt: skip


def test_a_hook_keeps_tests_with_equal_demands_apart(project: Project) -> None:
    with (project.folder / "conftest.py").open("a") as stream:
        stream.write("def pytest_can_run_together(item1, item2): return item1.name[-1] == item2.name[-1]\n")
    project.write("""
        @one
        def test_a1(base_config): pass
        @one
        def test_b2(base_config): pass
        @one
        def test_c1(base_config): pass
        @one
        def test_d3(base_config): pass
    """)
    out = project.run("-v")
    assert re.findall(r"PASSED \S+::(\S+)", out) == ["test_a1", "test_c1", "test_b2", "test_d3"]
    assert len(project.events("made")) == len(set(project.events("down"))) == 3


PLUGIN = """
from devenv.testing import register_host_plugin
from devenv.testing.errors import NotAvailable

class Mine:
    def __init__(self, host):
        self.host = host
    def record(self, method):
        with open("record", "a") as stream:
            print(method, file=stream)
    def ping(self): self.record("ping")
    def verify_functionality(self): self.record("verify_functionality")
    def reset_state(self): self.record("reset_state")
    def close(self): self.record("close")

register_host_plugin("Mine", Mine)

def pytest_after_devops_installer(base_config): base_config.hosts.host1.mine.record("after_devops_installer")
def pytest_after_test(item, base_config): base_config.hosts.host1.mine.record(item.name)
"""


def test_the_methods_of_a_plugin_are_called_at_their_points(project: Project) -> None:
    (project.folder / "conftest.py").write_text(CONFTEST + PLUGIN)
    project.write("""
        @one
        def test_1(base_config): assert base_config.hosts.host1.mine is base_config.hosts.host1.Mine
        @one
        def test_2(base_config): pass
    """)
    project.run()
    assert (project.folder / "record").read_text().split() == [
        "after_devops_installer", "ping", "verify_functionality",
        "test_1", "reset_state", "close", "test_2", "reset_state", "close",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "outcome"),
    [
        ("ping", {"errors": 2}),
        ("verify_functionality", {"errors": 2}),
        ("reset_state", {"passed": 2, "errors": 2}),
    ],
)
def test_a_failed_method_of_a_plugin_is_an_error_of_the_test(
    project: Project, method: str, outcome: dict[str, int]
) -> None:
    text = PLUGIN.replace(f'self.record("{method}")', 'raise RuntimeError("out of order")')
    (project.folder / "conftest.py").write_text(CONFTEST + text)
    project.write("""
        @one
        def test_1(base_config): pass
        @one
        def test_2(base_config): pass
    """)
    out = project.run(code=1)
    assert f"plugin Mine of host1: {method}: out of order" in out
    assert counts(out) == outcome


def test_what_a_crashed_test_did_is_undone(project: Project) -> None:
    (project.folder / "conftest.py").write_text(CONFTEST + PLUGIN)
    project.write("""
        @one
        def test_1(base_config): os.kill(os.getpid(), signal.SIGKILL)
        @one
        def test_2(base_config): base_config.hosts.host1.mine.record("test")
    """)
    project.run("--devenv-isolate", code=1)
    record = (project.folder / "record").read_text().split()
    assert record[record.index("verify_functionality") + 1 :][:3] == ["reset_state", "close", "ping"]


def test_an_error_while_a_crashed_test_is_cleaned_up_is_reported_and_the_others_run(project: Project) -> None:
    text = PLUGIN.replace('self.record("close")', 'raise RuntimeError("the door is stuck")')
    (project.folder / "conftest.py").write_text(CONFTEST + text)
    project.write("""
        @one
        def test_1(base_config): os.kill(os.getpid(), signal.SIGKILL)
        @one
        def test_2(base_config): pass
    """)
    out = project.run("--devenv-isolate", code=1)
    assert "devenv: clean-up after test_it.py::test_1: the door is stuck" in out
    # The error is that of test_2, which uses the plugin, too.
    assert counts(out) == {"passed": 1, "failed": 1, "error": 1}


def test_a_failed_installer_is_an_error_of_the_test_and_is_retried(project: Project) -> None:
    (project.folder / "conftest.py").write_text(
        textwrap.dedent("""
        import os
        from devenv.testing import Installer, register_installer

        class Fake(Installer):
            engine = "kubeadm"
            def session_install(self, target, request):
                if not os.path.exists("once"):
                    open("once", "w").close()
                    raise RuntimeError("the disk is upside down")
                open("done", "a").write("x")

        register_installer("fake", Fake)
        """)
    )
    project.write("""
        @one
        def test_1(base_config): pass
        @one
        def test_2(base_config): pass
        @one
        def test_3(base_config): pass
    """)
    out = project.run(code=1)
    assert "stage session_install: installer fake on cluster c: the disk is upside down" in out
    assert counts(out) == {"passed": 2, "error": 1}
    assert (project.folder / "done").read_text() == "x"


# --- import time ----------------------------------------------------------------------------------------------------


def test_nothing_is_imported_until_it_is_used(project: Project) -> None:
    (project.folder / "conftest.py").write_text(
        textwrap.dedent("""
        import sys

        def pytest_sessionfinish():
            tops = ("devenv", "ansible_collections", "yaml")
            loaded = sorted(name for name in sys.modules if name.partition(".")[0] in tops)
            print("\\nLOADED", *loaded)
        """)
    )
    (project.folder / "test_it.py").write_text("def test_plain(): pass\n")
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"],
        cwd=project.folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (line,) = [line for line in child.stdout.splitlines() if line.startswith("LOADED")]
    parts = ("hookspecs", "plugin")
    assert line.split()[1:] == ["devenv", "devenv.testing", *(f"devenv.testing.{part}" for part in parts)]


def _below(pid: int) -> list[int]:
    """Return the descendants of ``pid``, including the guard."""
    pids, todo = [], [pid]
    while todo:
        parent = todo.pop()
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            todo += [int(child) for child in path.read_text().split()]
        pids.append(parent)
    return pids[1:]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
