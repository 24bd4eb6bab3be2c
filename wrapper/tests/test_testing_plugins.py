"""Pytest behaves with hardware as without it: a table of plugins, features and options.

Each run is compared with the same run without devenv, in which the project has a fixture of the same name.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[2] / "tests"
MODES = {
    "plain": ("-p", "no:devenv"),
    "default": ("--devenv-allocator=support.allocators:Paper",),
    "isolated": ("--devenv-allocator=support.allocators:Paper", "--devenv-isolate"),
}
CONFTEST = """
import json, os
import pytest
from devenv.testing import hardware_config

def pytest_configure(config):
    config.addinivalue_line("markers", "hardware_config: stands for ours")
    config.pluginmanager.register(Recorder(config), "recorder")

class Recorder:
    def __init__(self, config):
        self.active = not hasattr(config, "workerinput")

    def record(self, *values):
        if self.active:
            with open(os.environ["RECORD"], "a") as stream:
                stream.write(json.dumps(values) + "\\n")

    def pytest_collection_finish(self, session):
        self.record("items", [item.nodeid for item in session.items])

    def pytest_runtest_logreport(self, report):
        last = str(report.longrepr).strip().splitlines()[-1] if report.longrepr else ""
        # What other plugins print during the test is captured: letters of subtests, stacks of other threads.
        titles = [title for title, text in report.sections if text.strip("u") and "Stack of" not in text]
        kind = type(report).__name__
        self.record(
            report.nodeid, kind, report.when, report.outcome, getattr(report, "wasxfail", ""), last, titles,
            report.user_properties,
        )

    def pytest_collectreport(self, report):
        if not report.passed:
            self.record("collect", report.nodeid, report.outcome)

    def pytest_warning_recorded(self, warning_message, when, nodeid):
        self.record("warning", str(warning_message.message), when, nodeid)

if os.environ["MODE"] == "plain":
    @pytest.fixture
    def base_config(request):
        yield "stands for ours"

    @pytest.fixture(autouse=True)
    def attribute(request):
        if request.cls is not None and request.instance is not None:
            request.instance.base_config = request.getfixturevalue("base_config")
"""
HEAD = """
import asyncio, os, signal, sys, time, unittest, warnings
from pathlib import Path
import pytest
from devenv.testing import hardware_config
one = hardware_config(hardware={"host1": {}})
def times(name):
    path = Path(name)
    path.write_text((path.read_text() if path.exists() else "") + "x")
    return len(path.read_text())
"""
SUITE = {
    "test_results.py": """
        pytestmark = one
        @pytest.fixture
        def skips(base_config): pytest.skip("in a fixture")
        @pytest.fixture
        def skips_before(): pytest.skip("in a fixture without hardware")
        @pytest.fixture
        def exits(base_config): sys.exit(4)
        @pytest.fixture
        def fails_before(base_config): assert base_config == 1
        @pytest.fixture
        def fails_after(base_config):
            yield
            raise RuntimeError("too late")
        def test_passes(base_config, record_property):
            print("hello")
            record_property("text", "value")
            record_property("object", 1.5)
        def test_fails(base_config): assert 1 == 2
        def test_skips(base_config): pytest.skip("not today")
        def test_skips_in_a_fixture(skips): pass
        def test_skips_in_a_fixture_before_it(skips_before, base_config): pass
        @pytest.mark.skipif(True, reason="never")
        def test_skip_marker(base_config): pass
        @pytest.mark.xfail
        def test_xfail(base_config): assert False
        @pytest.mark.xfail
        def test_xpass(base_config): pass
        @pytest.mark.xfail(strict=True)
        def test_strict_xfail(base_config): pass
        @pytest.mark.xfail(raises=KeyError)
        def test_xfail_of_another_kind(base_config): raise ValueError
        def test_warns(base_config): warnings.warn("careful")
        @pytest.mark.filterwarnings("error:careful")
        def test_warning_as_error(base_config): warnings.warn("careful")
        def test_exits(base_config): sys.exit(3)
        def test_exits_in_a_fixture(exits): pass
        def test_fails_before(fails_before): pass
        def test_fails_after(fails_after): pass
        def test_subtests(base_config, subtests):
            with subtests.test("good"): pass
            with subtests.test("bad", i=1): assert 0
            with subtests.test("skipped"): pytest.skip("this one")
        @pytest.mark.usefixtures("base_config")
        class TestClass:
            def test_method(self, base_config, tmp_path, monkeypatch, capsys, caplog):
                (tmp_path / "a").write_text("b")
                print("captured")
                assert capsys.readouterr().out == "captured\\n"
    """,
    "test_parameters.py": """
        two = hardware_config(hardware={"host1": {}, "host2": {}})
        skip, xfail = pytest.mark.skip, pytest.mark.xfail
        @pytest.mark.parametrize("n", [pytest.param(1, marks=one), pytest.param(2, marks=two), 3])
        def test_marked(request, n):
            if n < 3: request.getfixturevalue("base_config")
            assert ("base_config" in request.fixturenames) == (n < 3)
            assert n != 2
        @one
        @pytest.mark.parametrize("n", [1, pytest.param(2, marks=skip), pytest.param(3, marks=xfail)])
        def test_all(base_config, n): assert n != 3
    """,
    "test_unittest.py": """
        @one
        class TestCase(unittest.TestCase):
            @classmethod
            def setUpClass(cls): cls.shared = 1
            def setUp(self): self.own = self.base_config
            def test_passes(self): assert self.own is self.base_config and self.shared
            def test_fails(self): self.assertEqual(1, 2)
            def test_skips(self): self.skipTest("not today")
            @unittest.skip("never")
            def test_skip_marker(self): pass
            @unittest.expectedFailure
            def test_expected(self): assert False
            def test_subtests(self):
                for number in range(3):
                    with self.subTest(number=number): assert number != 1
            def test_cleanup(self): self.addCleanup(lambda: 1 / 0)
        class TestMethod(unittest.TestCase):
            @one
            def test_marked(self): assert self.base_config
        @one
        class TestAsync(unittest.IsolatedAsyncioTestCase):
            async def test_async(self):
                await asyncio.sleep(0)
                assert self.base_config
    """,
    "sub/conftest.py": """
        import pytest
        from devenv.testing import hardware_config
        def pytest_collection_modifyitems(items):
            for item in items:
                if "late" in item.name:
                    item.add_marker(hardware_config(hardware={"host1": {}}))
        @pytest.fixture
        def helper(base_config): return base_config
    """,
    "sub/test_sub.py": """
        def test_late(base_config): assert base_config
        def test_late_through_a_fixture(helper): assert helper
        def test_plain(): pass
    """,
    "test_plugins.py": """
        pytestmark = one
        @pytest.mark.asyncio
        async def test_async(base_config):
            await asyncio.sleep(0)
        @pytest.mark.asyncio
        async def test_async_fails(base_config):
            await asyncio.sleep(0)
            assert 0
        @pytest.mark.flaky(reruns=2)
        def test_flaky(base_config): assert times("flaky") == 2
        @pytest.mark.flaky(reruns=1)
        def test_broken(base_config): assert times("broken") == 0
        @pytest.mark.timeout(60)
        def test_hangs(base_config):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            time.sleep(600)
        @pytest.mark.timeout(0.5, func_only=True)
        def test_hangs_in_the_function(base_config): time.sleep(600)
        def test_after_them(base_config): pass
    """,
}


@dataclass(frozen=True)
class Result:
    """A run: its exit code, what pytest reported, and its output."""

    code: int
    records: list[Any]
    out: str

    @property
    def items(self) -> list[str]:
        return [name for record in self.records if record[0] == "items" for name in record[1]]

    @property
    def reports(self) -> list[Any]:
        return [record for record in self.records if record[0] != "items"]


@dataclass(frozen=True)
class Runs:
    """Runs of one project in a mode."""

    folder: Path
    mode: str

    def write(self, files: dict[str, str], *, head: str = HEAD) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(("" if name.endswith("conftest.py") else head) + textwrap.dedent(text))

    def run(self, *options: str) -> Result:
        record = self.folder / "record"
        record.unlink(missing_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "DEVENV_", "COV_"))}
        home = self.folder.with_name("home")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "--color=no",
                "-rA",
                "-p",
                "no:hypothesispytest",
                *MODES[self.mode],
                *options,
            ],
            cwd=self.folder,
            env={**kept, "DEVENV_HOME": str(home), "PYTHONPATH": str(TESTS), "MODE": self.mode, "RECORD": str(record)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        out = done.stdout + done.stderr
        assert "INTERNALERROR" not in out, out
        # No run leaves an environment.
        assert not list((home / "paper").glob("*")), out
        lines = record.read_text().replace(str(self.folder), "") if record.exists() else ""
        records = [json.loads(line) for line in lines.splitlines()]
        return Result(done.returncode, records, out)


def runs(top: Path, mode: str, files: dict[str, str]) -> Runs:
    folder = top / mode / "project"
    folder.mkdir(parents=True)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (folder / "conftest.py").write_text(CONFTEST)
    project = Runs(folder, mode)
    project.write(files)
    return project


Three = dict[str, Runs]


@pytest.fixture
def suites(tmp_path: Path) -> Three:
    return {mode: runs(tmp_path, mode, SUITE) for mode in MODES}


def compare(three: Three, *options: str) -> dict[str, Result]:
    """Run the projects with ``options``; all must report the same."""
    results = {mode: project.run(*options) for mode, project in three.items()}
    # The only difference is meant: these tests use no hardware, or other hardware.
    moved = ("test_plain", "test_marked[2]", "test_marked[3]")
    plain = results["plain"]
    for mode in ("default", "isolated"):
        result = results[mode]
        assert result.code == plain.code, result.out
        reports, theirs = (Counter(map(json.dumps, r.reports)) for r in (result, plain))
        assert (reports - theirs, theirs - reports) == (Counter(), Counter()), result.out
        order, expected = ([name for name in r.items if not name.endswith(moved)] for r in (result, plain))
        assert order == expected
    return results


def test_the_whole_suite_and_the_failures_of_the_last_run(suites: Three) -> None:
    results = compare(suites)
    outcomes = {(report[0], report[3]) for report in results["plain"].reports if report[0] not in ("warning",)}
    assert ("test_plugins.py::test_flaky", "rerun") in outcomes
    assert ("test_plugins.py::test_hangs", "failed") in outcomes
    assert ["warning", "careful", "runtest", "test_results.py::test_warns"] in results["plain"].reports
    last = {mode: result.out.splitlines()[-1] for mode, result in results.items()}
    assert len({re.sub(r" in [\d.]+s.*", "", line) for line in last.values()}) == 1, last
    failed = compare(suites, "--lf", "--deselect=test_plugins.py")["plain"].items
    assert "test_results.py::test_fails" in failed
    assert "test_results.py::test_passes" not in failed
    first = compare(suites, "--ff", "test_results.py")["plain"].items
    assert first.index("test_results.py::test_fails") < first.index("test_results.py::test_passes")


@pytest.mark.parametrize(
    "options",
    [
        ("-x", "test_results.py"),
        ("-k", "skips or sub", "--strict-markers"),
        ("--collect-only", "-q"),
        ("-p", "no:terminal", "test_unittest.py"),
        ("-p", "no:capture", "-p", "no:logging", "-p", "no:cacheprovider", "-p", "no:warnings", "sub"),
        pytest.param(
            ("-p", "no:asyncio", "-p", "no:timeout", "-p", "no:rerunfailures", "-p", "no:xdist", "test_parameters.py"),
            marks=pytest.mark.nightly,
        ),
        ("--reruns=1", "-W", "error::UserWarning", "test_parameters.py", "sub"),
        pytest.param(
            ("--timeout=60", "-s", "-v", "--setup-show", "--import-mode=importlib", "test_unittest.py"),
            marks=pytest.mark.nightly,
        ),
    ],
    ids=" ".join,
)
def test_options(suites: Three, options: tuple[str, ...]) -> None:
    results = compare(suites, *options)
    if "--collect-only" in options:
        listed = [sorted(result.out.partition("\n\n")[0].splitlines()) for result in results.values()]
        assert listed[0] == listed[1] == listed[2]
        assert not suites["default"].folder.with_name("home").exists()


def test_workers(suites: Three) -> None:
    compare(suites, "-n", "2", "--deselect=test_plugins.py")


def test_reports(suites: Three) -> None:
    options = ("--junitxml=out.xml", "--html=out.html", "--self-contained-html")
    compare(suites, *options, "test_results.py", "test_unittest.py")
    for name, pattern in {
        "out.xml": r'<(?:testcase classname="[^"]*" name="[^"]*"|property [^/]*|skipped|failure|error)',
        "out.html": r"&#34;(?:result|testId)&#34;: &#34;[^&]*&#34;",
    }.items():
        found = [re.findall(pattern, (project.folder / name).read_text()) for project in suites.values()]
        assert len(found[0]) > 20
        assert found[0] == found[1] == found[2]


def test_coverage(tmp_path: Path) -> None:
    files = {"test_it.py": "import product\n@one\ndef test_1(base_config): assert product.used()\n"}
    three = {mode: runs(tmp_path, mode, files) for mode in MODES}
    for project in three.values():
        (project.folder / "product.py").write_text("def used():\n    return 1\ndef unused():\n    return 2\n")
    compare(three, "--cov=product", "--cov-report=json")
    for project in three.values():
        report = json.loads((project.folder / "coverage.json").read_text())["files"]["product.py"]
        assert report["missing_lines"] == [4]


def test_a_mistake_is_an_error_of_this_test_alone(tmp_path: Path) -> None:
    project = runs(tmp_path, "default", {
        "test_it.py": """
            wrong = hardware_config(hardware={"host1": {"colour": "red"}})
            @pytest.mark.parametrize("n", [1, pytest.param(2, marks=wrong)])
            def test_parameter(n): pass
            class TestCase(unittest.TestCase):
                @wrong
                def test_wrong(self): pass
                def test_right(self): pass
            @one
            @pytest.mark.parametrize("n", [1, 2])
            def test_right(base_config, n): pass
        """,
    })  # fmt: skip
    result = project.run()
    assert result.code == pytest.ExitCode.INTERRUPTED
    for name in ("test_parameter[2]", "TestCase::test_wrong"):
        assert f"test_it.py::{name}: hardware.host1: unknown key colour" in result.out
    assert "2 errors" in result.out.splitlines()[-1]
    result = project.run("--continue-on-collection-errors")
    assert "4 passed, 2 errors" in result.out.splitlines()[-1]
    assert project.run("-k", "right").code == 0


def test_a_project_may_have_its_own_base_config(tmp_path: Path) -> None:
    project = runs(tmp_path, "default", {
        "test_it.py": """
            @pytest.fixture
            def base_config(): return 7
            def test_own(base_config): assert base_config == 7
            @pytest.mark.hardware_config(rack=3)
            def test_own_marker(base_config): assert base_config == 7
        """,
        "test_parameter.py": """
            @pytest.mark.parametrize("base_config", [7])
            def test_parameter(base_config): assert base_config == 7
            @one
            @pytest.mark.parametrize("base_config", [7])
            def test_marked(base_config): assert base_config == 7
        """,
    })  # fmt: skip
    assert project.run().code == 0
    assert project.run("test_parameter.py").code == 0


# --- options ----------------------------------------------------------------------------------------------------------

OWN = """
def pytest_addoption(parser):
    parser.addoption("--hardware", help="ours")
    parser.getgroup("lab").addoption("--install", action="store_true")
"""


@pytest.mark.parametrize("where", ["conftest", "plugin", "plugin before"])
def test_short_names_belong_to_the_project_if_it_has_them(tmp_path: Path, where: str) -> None:
    project = runs(tmp_path, "default", {
        "test_it.py": """
            def test_own(pytestconfig):
                assert pytestconfig.getoption("--hardware") == "table"
                assert pytestconfig.getoption("--install") is True
                assert pytestconfig.getoption("--devenv-hardware") is None
                assert pytestconfig.getoption("--devenv-install") is False
                assert pytestconfig.getoption("--provisioner") == "https://x"
        """,
    })  # fmt: skip
    options = ["--hardware", "table", "--install", "--provisioner=https://x"]
    if where == "conftest":
        (project.folder / "conftest.py").write_text(OWN + CONFTEST)
    else:
        (project.folder / "lab.py").write_text(OWN)
        options = ["-p", "lab", *options] if where == "plugin before" else [*options, "-p", "lab"]
        (project.folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    result = project.run(*options)
    assert result.code == 0, result.out
    assert "--devenv-hardware" in project.run("--help").out


def test_the_value_of_a_short_name_is_not_the_path_of_a_test(tmp_path: Path) -> None:
    """Otherwise pytest would not load the conftest of the folder ``tests`` before it reads the options."""
    project = runs(
        tmp_path, "default", {"tests/test_it.py": "def test_1(pytestconfig): pytestconfig.getoption('--own')"}
    )
    (project.folder / "tests" / "conftest.py").write_text("def pytest_addoption(parser): parser.addoption('--own')\n")
    (project.folder / "lab.yml").write_text("hosts: {}\n")
    assert project.run("--hardware", "lab.yml", "--own", "x").code == 0


@pytest.mark.parametrize("option", ["--hardware", "--devenv-hardware"])
def test_a_file_outside_the_project_does_not_hide_its_configuration(tmp_path: Path, option: str) -> None:
    test = "def test_1(pytestconfig): assert pytestconfig.inipath and pytestconfig.getoption('--devenv-hardware')"
    project = runs(tmp_path, "default", {"tests/test_it.py": test})
    (tmp_path / "lab.yml").write_text("hosts: {}\n")
    result = project.run(option, "../../lab.yml")
    assert result.code == pytest.ExitCode.USAGE_ERROR
    assert f"{option} ../../lab.yml: write {option}=../../lab.yml" in result.out
    assert project.run(f"{option}=../../lab.yml").code == 0
    assert project.run("tests", option, "../../lab.yml").code == 0


@pytest.mark.parametrize("option", ["--pdb", "--trace"])
def test_isolation_is_refused_together_with_a_debugger(tmp_path: Path, option: str) -> None:
    project = runs(tmp_path, "isolated", {"test_it.py": "def test_1(): pass"})
    result = project.run(option)
    assert result.code == pytest.ExitCode.USAGE_ERROR
    assert f"--devenv-isolate, {option}: use only one of them" in result.out
