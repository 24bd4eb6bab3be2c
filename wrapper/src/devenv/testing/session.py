"""The part of the pytest plugin that is active in runs with hardware."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from devenv.testing import MARK, SESSION, demand_parse, logs, proxies, settings
from devenv.testing.allocators.manager import Manager
from devenv.testing.demand import Demand, DemandError
from devenv.testing.errors import TestingError
from devenv.testing.installers import steps as installers
from devenv.testing.isolation import ChildGone, RemoteManager, Runner, failed_reports
from devenv.testing.objects import BaseConfig

ARGUMENTS = ("hardware", "grouping")
# In ascending order: the outcome of a test is the worst of its phases.
OUTCOMES = ("passed", "skipped", "failed")


@dataclass(frozen=True)
class Request:
    """What one test requests; tests with the same ``key`` share machines."""

    demand: Demand
    key: str


REQUEST = pytest.StashKey[Request]()


# --- collection -------------------------------------------------------------------------------------------------------


def collected(item: pytest.Function) -> None:
    """Check what a test requests. Raises CollectError that names the test."""
    active = active_session(item.config)
    marker = item.get_closest_marker(MARK)
    if marker is None:
        raise pytest.Collector.CollectError(f"{item.nodeid}: uses base_config, but has no {MARK}")
    try:
        demand = active.parse(item, _arguments(marker))
    except DemandError as error:
        raise pytest.Collector.CollectError("\n".join(f"{item.nodeid}: {line}" for line in error.problems)) from None
    if "base_config" not in item.fixturenames:
        item.fixturenames.append("base_config")
    key = active.manager.key(demand, _place(item, demand.scope or active.settings.scope))
    item.stash[REQUEST] = Request(demand, key)
    if item.config.pluginmanager.hasplugin("xdist"):
        item.add_marker(pytest.mark.xdist_group(name=key))


def _arguments(marker: pytest.Mark) -> dict[str, Any]:
    if len(marker.args) > len(ARGUMENTS):
        raise DemandError([f"{MARK}: takes hardware and grouping, but got {len(marker.args)} arguments"])
    return {**dict(zip(ARGUMENTS, marker.args, strict=False)), **marker.kwargs}


def _place(item: pytest.Item, scope: str) -> str:
    if scope == "function":
        return item.nodeid
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
        self._machines: Manager | RemoteManager = self.manager
        self._parsed: dict[str, Demand] = {}
        self._runner: Runner | None = None
        self._configs: dict[str, BaseConfig] = {}
        self._prepared: set[str] = set()
        self._remaining: Counter[str] = Counter()
        self._outcomes: dict[str, str] = {}
        self._worker = hasattr(config, "workerinput")
        # The lock of the install stage while a child has it.
        self._lock = ExitStack()

    @property
    def _in_child(self) -> bool:
        return self._machines is not self.manager

    def parse(self, item: pytest.Function, arguments: Mapping[str, Any]) -> Demand:
        """Return the demand of a test. Raises DemandError."""
        defaults = [getattr(item.module, name, "") for name in ("installer", "cluster_installer")]
        installer, cluster_installer = (value if isinstance(value, str) else "" for value in defaults)
        key = repr((arguments, installer, cluster_installer))
        if key not in self._parsed:
            self._parsed[key] = demand_parse.parse(
                arguments, installer=installer, cluster_installer=cluster_installer, remote=self.settings.remote
            )
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

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # Tests without hardware first, then those that share machines, group by group; else the order stays.
        order: dict[str, int] = {}
        for item in items:
            if REQUEST in item.stash:
                order.setdefault(item.stash[REQUEST].key, len(order) + 1)
        items.sort(key=lambda item: order[item.stash[REQUEST].key] if REQUEST in item.stash else 0)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if self.config.option.collectonly:
            return
        self._remaining = Counter(item.stash[REQUEST].key for item in session.items if REQUEST in item.stash)
        if self._remaining and self.settings.isolation:
            self._runner = Runner(session, self._become_child, self._answer)

    def _become_child(self, machines: RemoteManager) -> None:
        self._runner = None
        self._machines = machines

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            if REQUEST in item.stash and not self._in_child:
                self._after(item)

    def _after(self, item: pytest.Item) -> None:
        key, demand = item.stash[REQUEST].key, item.stash[REQUEST].demand
        outcome = self._outcomes.pop(item.nodeid, "failed")
        if self.settings.logs:
            logs.link(self.settings.logs, item.nodeid, outcome)
        if key not in self.manager.entered:
            return
        self.manager.after_test(key, failed=outcome == "failed")
        self._remaining[key] -= 1
        # A worker of pytest-xdist gets its tests one by one: it does not know how many remain.
        is_last = (demand.scope or self.settings.scope) == "function" if self._worker else self._remaining[key] <= 0
        if is_last:
            self._configs.pop(key, None)
            self.manager.release([key])

    @pytest.hookimpl(tryfirst=True, specname="pytest_runtest_protocol")
    def pytest_devenv_isolated(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if self._runner is None or REQUEST not in item.stash:
            return None
        request = item.stash[REQUEST]
        index = {id(other): number for number, other in enumerate(item.session.items)}
        same = nextitem is not None and REQUEST in nextitem.stash and nextitem.stash[REQUEST].key == request.key
        following = index[id(nextitem)] if same else None
        limit = request.demand.timeout or self.settings.test_timeout
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        began = time.monotonic()
        try:
            for report in self._runner.run(index[id(item)], following, request.key, limit):
                item.ihook.pytest_runtest_logreport(report=report)
        except ChildGone as error:
            self._collect_logs(item, time.time() - (time.monotonic() - began))
            for report in failed_reports(item, str(error), time.monotonic() - began):
                item.ihook.pytest_runtest_logreport(report=report)
        finally:
            self._lock.close()
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = self._outcomes.get(report.nodeid, OUTCOMES[0])
        self._outcomes[report.nodeid] = max(known, report.outcome, key=OUTCOMES.index)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            runner.close(interrupt=exitstatus == pytest.ExitCode.INTERRUPTED)

    @pytest.hookimpl(trylast=True, specname="pytest_sessionfinish")
    def pytest_devenv_release(self) -> None:
        # After pytest's own teardown of fixtures, which may still use the machines.
        if not self._in_child:
            self.manager.close()

    def _answer(self, kind: str, *values: Any) -> Any:
        """Return the answer to a child's request."""
        if kind == "acquire":
            try:
                return self.manager.acquire(*values)
            except TestingError as error:
                return TestingError(str(error))
        if kind == "lock":
            return self._lock.enter_context(self.manager.installing(*values))
        if kind == "mark_installed":
            self.manager.mark_installed(*values)
        else:
            self._lock.close()
        return None

    # --- the fixture ---

    def serve(self, request: pytest.FixtureRequest) -> Iterator[BaseConfig]:
        """Prepare the machines of a test before it, and clean up after it."""
        item: pytest.Item = request.node
        if REQUEST not in item.stash:
            pytest.fail(f"{item.nodeid}: has no {MARK} with the hosts and clusters that it needs", pytrace=False)
        demand, key = item.stash[REQUEST].demand, item.stash[REQUEST].key
        try:
            base_config, used = self._machines.acquire(key, demand)
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
        began = time.time()
        hook = item.ihook
        with ExitStack() as stack:
            stack.enter_context(proxies.bypassed(base_config))
            stack.callback(base_config.clear_plugins)
            stack.callback(installers.run_stage, "teardown", base_config, demand, request)
            if self.settings.logs:
                stack.callback(logs.collect, base_config, item, self.settings.logs, began)
            stack.callback(hook.pytest_after_test, item=item, base_config=base_config)
            self._prepare(base_config, item.stash[REQUEST], request)
            installers.run_stage("runtest_setup", base_config, demand, request)
            if used:
                for host in base_config.hosts.values():
                    hook.pytest_clean_between_tests(host=host, item=item)
                hook.pytest_clean_base_btwn_tests(base_config=base_config, item=item)
            installers.run_stage("setup", base_config, demand, request)
            hook.pytest_after_base_config(base_config=base_config, request=request)
            yield base_config

    def _prepare(self, base_config: BaseConfig, requested: Request, request: pytest.FixtureRequest) -> None:
        if requested.key in self._prepared:
            return
        installers.run_stage("session", base_config, requested.demand, request)
        if self.settings.install:
            with self._machines.installing(requested.key) as todo:
                if todo:
                    installers.run_stage("session_install", base_config, requested.demand, request)
                    request.node.ihook.pytest_after_devops_installer(base_config=base_config, request=request)
                    self._machines.mark_installed(requested.key)
        self._prepared.add(requested.key)

    def _collect_logs(self, item: pytest.Item, since: float) -> None:
        """Collect the logs of a test whose process did not."""
        request = item.stash[REQUEST]
        if not self.settings.logs or request.key not in self.manager.entered:
            return
        try:
            base_config, _ = self.manager.acquire(request.key, request.demand)
        except TestingError:
            return
        logs.collect(base_config, item, self.settings.logs, since)
        base_config.clear_plugins()
