"""The part of the pytest plugin that is active in runs with hardware."""

from __future__ import annotations

import importlib
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from devenv.testing import MARK, SESSION, demand_parse, logs, proxies, settings
from devenv.testing.allocators.manager import Manager
from devenv.testing.demand import Demand, DemandError
from devenv.testing.errors import ExtensionInvalid, TestingError
from devenv.testing.installers import project
from devenv.testing.installers import steps as installers
from devenv.testing.isolation import ChildGone, RemoteManager, Runner, Skipped, failed_reports
from devenv.testing.limit import Limit
from devenv.testing.objects import BaseConfig
from devenv.testing.plugins import lifecycle

ARGUMENTS = ("hardware", "grouping")
FIXTURE = "base_config"


@dataclass(frozen=True)
class Request:
    """What one test requests; tests with the same ``key`` share machines."""

    demand: Demand
    key: str


@dataclass(frozen=True)
class Worker:
    """The process that runs tests: ``main``, or the name of a worker of pytest-xdist."""

    id: str = "main"


REQUEST = pytest.StashKey[Request]()


# --- collection -------------------------------------------------------------------------------------------------------


def _is_ours(item: pytest.Function) -> bool:
    """Return whether the fixture is that of this package: a project can replace it by its own, or by a parameter."""
    if FIXTURE in getattr(getattr(item, "callspec", None), "params", ()):
        return False
    *_, last = item.session._fixturemanager.getfixturedefs(FIXTURE, item) or ()
    return last.func.__module__ == "devenv.testing.plugin" or FIXTURE in last.argnames


def _arguments(marker: pytest.Mark) -> dict[str, Any]:
    if len(marker.args) > len(ARGUMENTS):
        raise DemandError([f"{MARK}: takes hardware and grouping, but got {len(marker.args)} arguments"])
    return {**dict(zip(ARGUMENTS, marker.args, strict=False)), **marker.kwargs}


def _place(item: pytest.Item, scope: str, worker: Worker) -> str:
    if scope == "function":
        return item.nodeid
    if scope == "worker":
        return worker.id
    module = item.getparent(pytest.Module)
    return module.nodeid if scope == "module" and module else ""


def active_session(config: pytest.Config) -> HardwareSession:
    """Return the plugin of this run; it is registered on first use."""
    active: HardwareSession | None = config.pluginmanager.getplugin(SESSION)
    if active is None:
        active = HardwareSession(config)
        config.pluginmanager.register(active, SESSION)
    return active


# --- the run ----------------------------------------------------------------------------------------------------------


class HardwareSession:
    """The plugin of a run with hardware."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings = settings.read(config)
        self.manager = Manager(self.settings, config.hook, self._report)
        try:
            project.load(config.rootpath / project.FILE)
            self._is_remote = self.manager.is_remote
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        self._machines: Manager | RemoteManager = self.manager
        self._parsed: dict[str, Demand] = {}
        self._runner: Runner | None = None
        self._index: dict[int, int] = {}
        self._limit = Limit(0)
        self._limit_changed: Callable[[float | None], None] = lambda _: None
        self._configs: dict[str, BaseConfig] = {}
        self._prepared: set[str] = set()
        self._remaining: Counter[str] = Counter()
        self._outcomes: dict[str, str] = {}
        # Not from the environment: a pytest that a test starts inherits the variables of its worker.
        xdist = getattr(config, "workerinput", None)
        self._is_worker = xdist is not None
        self.worker = Worker(xdist["workerid"]) if xdist else Worker()
        # Groups of tests that share an environment: those that have begun.
        self._begun: list[str] = []
        # The lock of the install stage while a child has it.
        self._lock = ExitStack()

    def select(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Read what the tests request. A test with a mistake becomes an error of the collection.

        Tests without hardware come first, then those that share machines, group by group; else the order stays.
        """
        hook = self.config.hook
        hook.pytest_before_group_items(session=session, config=self.config, items=items)
        kept, order = [], {"": 0}
        firsts: dict[str, pytest.Item] = {}
        for item in items:
            try:
                key = self._group(item, firsts)
            except DemandError as error:
                text = "\n".join(f"{item.nodeid}: {line}" for line in error.problems)
                report = pytest.CollectReport(item.nodeid, "failed", text, [])
                item.ihook.pytest_collectreport(report=report)
                continue
            order.setdefault(key, len(order))
            kept.append((order[key], item))
        items[:] = [item for _, item in sorted(kept, key=lambda pair: pair[0])]
        hook.pytest_after_group_items(session=session, config=self.config, items=items)

    def _group(self, item: pytest.Item, firsts: dict[str, pytest.Item]) -> str:
        """Return what `_read` does; tests that a hook keeps apart get environments of their own."""
        key = name = self._read(item)
        hook, number = item.ihook, 1
        while name and (first := firsts.setdefault(name, item)) is not item:
            if hook.pytest_can_run_together(item1=first, item2=item) is not False:
                break
            number += 1
            name = f"{key}-{number}"
        if name:
            item.stash[REQUEST] = replace(item.stash[REQUEST], key=name)
        return name

    def mark_groups(self, items: list[pytest.Item]) -> None:
        """Mark the tests that share machines for ``--dist loadgroup`` of pytest-xdist."""
        for item in items:
            with suppress(DemandError):
                if key := self._read(item):
                    item.add_marker(pytest.mark.xdist_group(name=key))

    def _read(self, item: pytest.Item) -> str:
        """Attach what a test requests to it; return the name of its environment, or nothing. Raises DemandError."""
        marker = item.get_closest_marker(MARK)
        if not isinstance(item, pytest.Function):
            # The marker of a module is not meant for its doctests.
            if marker in item.own_markers:
                raise DemandError([f"{MARK}: only functions and methods can have hardware"])
            return ""
        if (marker is None and FIXTURE not in item.fixturenames) or not _is_ours(item):
            return ""
        if marker is None:
            raise DemandError([f"uses {FIXTURE}, but has no {MARK}"])
        demand = self._parse(item, _arguments(marker))
        if FIXTURE not in item.fixturenames:
            # A new list: all parameters of a function share one.
            item.fixturenames = [*item.fixturenames, FIXTURE]
        key = self.manager.key(demand, _place(item, demand.scope or self.settings.scope, self.worker))
        item.stash[REQUEST] = Request(demand, key)
        return key

    def _parse(self, item: pytest.Function, arguments: Mapping[str, Any]) -> Demand:
        defaults = [getattr(item.module, name, "") for name in ("installer", "cluster_installer")]
        installer, cluster_installer = (value if isinstance(value, str) else "" for value in defaults)
        key = repr((arguments, installer, cluster_installer))
        if key not in self._parsed:
            try:
                self._parsed[key] = demand_parse.parse(
                    arguments, installer=installer, cluster_installer=cluster_installer,
                    remote=self._is_remote, install=self.settings.install,
                )  # fmt: skip
            except ExtensionInvalid as error:
                raise DemandError([str(error)]) from None
        return self._parsed[key]

    def _report(self, text: str) -> None:
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is None:
            return
        capture = self.config.pluginmanager.getplugin("capturemanager")
        with ExitStack() as stack:
            if capture is not None:
                stack.enter_context(capture.global_and_fixture_disabled())
            reporter.ensure_newline()
            reporter.write_line(f"devenv: {text}")

    # --- hooks ---

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if self.config.option.collectonly:
            return
        self._remaining = Counter(item.stash[REQUEST].key for item in session.items if REQUEST in item.stash)
        if self.settings.isolate and session.items:
            self._index = {id(item): number for number, item in enumerate(session.items)}
            if any(item.stash[REQUEST].demand.clusters for item in session.items if REQUEST in item.stash):
                # Once, because this takes a second in each child.
                importlib.import_module("kubernetes")
            self._runner = Runner(session, self._become_child, self._answer)

    def _become_child(self, machines: RemoteManager) -> None:
        self._runner = None
        self._machines = machines
        self._limit_changed = machines.send_limit

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        if REQUEST not in item.stash or isinstance(self._machines, RemoteManager):
            return (yield)
        self.manager.item = item
        key = item.stash[REQUEST].key
        if key not in self._begun:
            self._begun.append(key)
            self.config.hook.pytest_started_handling_group(session=item.session, worker=self.worker)
        result = yield
        # The fixtures of an interrupted test finish later, and so its machines are released at the end of the run.
        self._after(item)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        is_limited = REQUEST in item.stash or self.settings.isolate
        self._limit = Limit(self._seconds(item) if is_limited else 0, self._limit_changed)
        with self._limit.counted():
            yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        with self._limit.counted():
            yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        with self._limit.counted():
            yield

    def _seconds(self, item: pytest.Item) -> float:
        return (item.stash[REQUEST].demand.timeout if REQUEST in item.stash else 0) or self.settings.test_timeout

    def pytest_enter_pdb(self) -> None:
        self._limit.stop()

    def _after(self, item: pytest.Item) -> None:
        key, demand = item.stash[REQUEST].key, item.stash[REQUEST].demand
        outcome = self._outcomes.pop(item.nodeid, "failed")
        if self.settings.logs:
            logs.link(self.settings.logs, item.nodeid, outcome)
        self.manager.after_test(key, failed=outcome == "failed")
        # Also a test that was skipped before it used its machines may be the last one.
        self._remaining[key] -= 1
        # A worker of pytest-xdist gets its tests one by one: it does not know how many remain.
        is_last = (demand.scope or self.settings.scope) == "function" if self._is_worker else self._remaining[key] <= 0
        if is_last:
            self._configs.pop(key, None)
            self._finish_group(item.session, key)
            self.manager.release([key])

    def _finish_group(self, session: pytest.Session, key: str) -> None:
        self._begun.remove(key)
        self.config.hook.pytest_finished_handling_group(session=session, worker=self.worker)

    @pytest.hookimpl(tryfirst=True, specname="pytest_runtest_protocol")
    def pytest_devenv_isolated(self, item: pytest.Item) -> bool | None:
        index = self._index.get(id(item))
        if self._runner is None or index is None:
            return None
        hook, began, last = item.ihook, time.monotonic(), "teardown"
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        hook.pytest_start_subprocess(item=item, worker=self.worker)
        hook.pytest_before_running_test(item=item)
        try:
            for report in self._runner.run(index, self._seconds(item)):
                last = report.when if type(report) is pytest.TestReport else last
                hook.pytest_runtest_logreport(report=report)
        except ChildGone as error:
            self._clean_up(item, time.time() - (time.monotonic() - began))
            for report in failed_reports(item, str(error), time.monotonic() - began, last):
                hook.pytest_runtest_logreport(report=report)
        finally:
            self._lock.close()
        hook.pytest_after_running_test(item=item)
        hook.pytest_end_subprocess(item=item, worker=self.worker)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self) -> bool | None:
        # pytest-timeout limits the test in the child.
        return True if self._runner is not None else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if isinstance(self._machines, RemoteManager):
            self._machines.send_report(self.config, report)
            return
        self._outcomes[report.nodeid] = logs.worst(self._outcomes.get(report.nodeid, "passed"), report.outcome)

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        if isinstance(self._machines, RemoteManager):
            self._machines.send_warning(warning_message, when, nodeid, location)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        # The fixtures of an interrupted test finish in its process, or in pytest's own implementation of this hook.
        try:
            if self._runner is not None:
                runner, self._runner = self._runner, None
                runner.close()
            return (yield)
        finally:
            for key in [*self._begun]:
                self._finish_group(session, key)
            self.manager.close()

    def _answer(self, kind: str, *values: Any) -> Any:
        """Return the answer to a child's request, or an error that can be sent: hooks may raise any."""
        try:
            if kind == "acquire":
                return self.manager.acquire(*values)
            if kind == "lock":
                return self._lock.enter_context(self.manager.installing(*values))
            if kind == "mark_installed":
                self.manager.mark_installed(*values)
            else:
                self._lock.close()
        except pytest.skip.Exception as skip:
            return Skipped(str(skip))
        except (TestingError, pytest.fail.Exception) as error:
            return TestingError(str(error))
        except Exception:
            return TestingError(traceback.format_exc())
        return None

    # --- the fixture ---

    def serve(self, request: pytest.FixtureRequest) -> Iterator[BaseConfig]:
        """Prepare the machines of a test before it, and clean up after it. Its time limit includes neither."""
        item: pytest.Item = request.node
        if REQUEST not in item.stash:
            pytest.fail(f"{item.nodeid}: has no {MARK} with the hosts and clusters that it needs", pytrace=False)
        requested, hook, clean_up = item.stash[REQUEST], item.ihook, ExitStack()
        demand = requested.demand
        try:
            with self._limit.paused():
                base_config, used = self._acquire(requested)
                clean_up.enter_context(proxies.bypassed(base_config))
                clean_up.callback(base_config.clear_plugins)
                clean_up.callback(base_config.reset_state)
                clean_up.callback(installers.run_stage, "teardown", base_config, demand, request)
                if self.settings.logs:
                    clean_up.callback(logs.collect, base_config, item, self.settings.logs, time.time())
                clean_up.callback(hook.pytest_after_test, item=item, base_config=base_config)
                self._prepare(base_config, requested, request)
            installers.run_stage("runtest_setup", base_config, demand, request)
            if used:
                for host in base_config.hosts.values():
                    hook.pytest_clean_between_tests(host=host, item=item)
                hook.pytest_clean_base_btwn_tests(base_config=base_config, item=item)
            installers.run_stage("setup", base_config, demand, request)
            hook.pytest_after_base_config(base_config=base_config, request=request)
            yield base_config
        finally:
            with self._limit.paused():
                clean_up.close()

    def _acquire(self, requested: Request) -> tuple[BaseConfig, bool]:
        """Return the machines of a test, and whether a test used them before."""
        key = requested.key
        try:
            base_config, used = self._machines.acquire(key, requested.demand)
        except TestingError as error:
            pytest.fail(str(error), pytrace=False)
        known = self._configs.get(key)
        is_same = known is not None and known.has_same_machines(base_config)
        if known is not None and is_same:
            # All tests of this process that use the same machines get the same object.
            base_config = known
        if not used or not is_same:
            self._prepared.discard(key)
        self._configs[key] = base_config
        return base_config, used

    def _prepare(self, base_config: BaseConfig, requested: Request, request: pytest.FixtureRequest) -> None:
        if requested.key in self._prepared:
            return
        installers.run_stage("session", base_config, requested.demand, request)
        verified = False
        if self.settings.install:
            with self._machines.installing(requested.key) as todo:
                if todo:
                    installers.run_stage("session_install", base_config, requested.demand, request)
                    request.node.ihook.pytest_after_devops_installer(base_config=base_config, request=request)
                    lifecycle.check(base_config, verify=True)
                    verified = True
                    self._machines.mark_installed(requested.key)
        if not verified:
            lifecycle.check(base_config, verify=False)
        self._prepared.add(requested.key)

    def _clean_up(self, item: pytest.Item, since: float) -> None:
        """Collect the logs and undo the changes of a test whose process did not."""
        request = item.stash.get(REQUEST, None)
        if not request or request.key not in self.manager.entered:
            return
        try:
            with ExitStack() as stack:
                base_config, _ = self.manager.acquire(request.key, request.demand)
                stack.callback(base_config.clear_plugins)
                if self.settings.logs:
                    logs.collect(base_config, item, self.settings.logs, since)
                for failure in lifecycle.recover(base_config):
                    self._report(str(failure))
        except Exception as error:
            self._report(f"clean-up after {item.nodeid}: {error}")
