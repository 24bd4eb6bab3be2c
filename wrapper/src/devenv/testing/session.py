"""What happens in a test run once a test has asked for hardware."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from devenv.testing import demand_parse, logs
from devenv.testing import settings as options
from devenv.testing.allocators import allocation
from devenv.testing.allocators.manager import Manager
from devenv.testing.demand import Demand, DemandError
from devenv.testing.errors import TestingError
from devenv.testing.installers import steps as installers
from devenv.testing.isolation import ChildGone, Remote, Runner, failed_reports
from devenv.testing.marks import MARK, SESSION
from devenv.testing.objects import BaseConfig

ARGUMENTS = ("hardware", "grouping")


@dataclass(frozen=True)
class Wanted:
    """What one test asks for; tests with the same ``key`` share machines."""

    demand: Demand
    key: str


WANTED = pytest.StashKey[Wanted]()
ACTIVE = pytest.StashKey["Active"]()


# --- collection -------------------------------------------------------------------------------------------------------


def collected(item: pytest.Function) -> None:
    """Check what a test asks for. Raises CollectError that names the test."""
    active = _active(item.config)
    marker = item.get_closest_marker(MARK)
    if marker is None:
        raise pytest.Collector.CollectError(f"{item.nodeid}: takes base_config, and no {MARK} says what of")
    try:
        found = active.parse(item, _said(marker))
    except DemandError as error:
        raise pytest.Collector.CollectError("\n".join(f"{item.nodeid}: {line}" for line in error.problems)) from None
    if "base_config" not in item.fixturenames:
        item.fixturenames.append("base_config")
    wanted = Wanted(found, active.manager.key(found, _place(item, found.scope or active.settings.scope)))
    item.stash[WANTED] = wanted
    if item.config.pluginmanager.hasplugin("xdist"):
        item.add_marker(pytest.mark.xdist_group(name=wanted.key))


def _said(marker: pytest.Mark) -> dict[str, Any]:
    if len(marker.args) > len(ARGUMENTS):
        raise DemandError([f"{MARK}: takes hardware and grouping, got {len(marker.args)} arguments"])
    return {**dict(zip(ARGUMENTS, marker.args, strict=False)), **marker.kwargs}


def _place(item: pytest.Item, scope: str) -> str:
    if scope == "function":
        return item.nodeid
    module = item.getparent(pytest.Module)
    return module.nodeid if scope == "module" and module else ""


def arrange(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests without hardware first, then those that share machines, one group after the other; else as they were."""
    order: dict[str, int] = {}
    for item in items:
        if WANTED in item.stash:
            order.setdefault(item.stash[WANTED].key, len(order) + 1)
    items.sort(key=lambda item: order[item.stash[WANTED].key] if WANTED in item.stash else 0)


def _active(config: pytest.Config) -> Active:
    if ACTIVE not in config.stash:
        config.stash[ACTIVE] = Active(config)
        config.pluginmanager.register(config.stash[ACTIVE], SESSION)
    return config.stash[ACTIVE]


# --- the run ----------------------------------------------------------------------------------------------------------


class Active:
    """The plugin of a run with hardware."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings = options.of(config)
        self.manager = Manager(self.settings, config.hook, self._say)
        self._parsed: dict[str, Demand] = {}
        self._session: pytest.Session | None = None
        self._runner: Runner | None = None
        self._remote: Remote | None = None
        self._configs: dict[str, BaseConfig] = {}
        self._prepared: set[str] = set()
        self._left: Counter[str] = Counter()
        self._outcomes: dict[str, str] = {}
        self._worker = hasattr(config, "workerinput")
        # A lock that the parent holds for a child while its installers work.
        self._installing: AbstractContextManager[bool] | None = None

    def parse(self, item: pytest.Function, said: Mapping[str, Any]) -> Demand:
        own = {name: getattr(item.module, name, "") for name in ("installer", "cluster_installer")}
        words = {name: value if isinstance(value, str) else "" for name, value in own.items()}
        text = repr((said, words))
        if text not in self._parsed:
            self._parsed[text] = demand_parse.parse(
                said,
                installer=words["installer"],
                cluster_installer=words["cluster_installer"],
                remote=self.settings.remote,
            )
        return self._parsed[text]

    def _say(self, text: str) -> None:
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
        self._session = session
        self._left = Counter(item.stash[WANTED].key for item in session.items if WANTED in item.stash)
        if self._left and self.settings.isolation:
            self._runner = Runner(session, self._become_child)

    def _become_child(self, remote: Remote) -> None:
        self._runner = None
        self._remote = remote

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            if WANTED in item.stash and self._remote is None:
                self._after(item, nextitem)

    def _after(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        wanted = item.stash[WANTED]
        outcome = self._outcomes.pop(item.nodeid, "failed")
        if self.settings.logs:
            logs.link(self.settings.logs, item.nodeid, outcome)
        if wanted.key not in self.manager.entered:
            return
        self.manager.after_test(wanted.key, failed=outcome == "failed")
        self._left[wanted.key] -= 1
        if self._is_over(item, wanted, nextitem):
            self._configs.pop(wanted.key, None)
            self.manager.release([wanted.key])

    def _is_over(self, item: pytest.Item, wanted: Wanted, nextitem: pytest.Item | None) -> bool:
        """Whether no test of this process will need the machines any more, as far as is known."""
        if not self._worker:
            return self._left[wanted.key] <= 0
        # A worker of pytest-xdist is told its tests one by one.
        return (wanted.demand.scope or self.settings.scope) == "function"

    @pytest.hookimpl(tryfirst=True, specname="pytest_runtest_protocol")
    def pytest_devenv_isolated(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if self._runner is None or WANTED not in item.stash:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        began = time.monotonic()
        try:
            for report in self._reports(self._runner, item, nextitem):
                item.ihook.pytest_runtest_logreport(report=report)
        except ChildGone as error:
            self._collect_for(item, time.time() - (time.monotonic() - began))
            for report in failed_reports(item, str(error), time.monotonic() - began):
                item.ihook.pytest_runtest_logreport(report=report)
        finally:
            self._end_installing(ok=False)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports(self, runner: Runner, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[pytest.TestReport]:
        wanted = item.stash[WANTED]
        places = {id(one): number for number, one in enumerate(item.session.items)}
        same = nextitem is not None and WANTED in nextitem.stash and nextitem.stash[WANTED].key == wanted.key
        following = places[id(nextitem)] if same else None
        limit = wanted.demand.timeout or self.settings.test_timeout
        yield from runner.run(places[id(item)], following, wanted.key, limit, self._answer)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before = self._outcomes.get(report.nodeid, "passed")
        if report.outcome != "passed" and before != "failed":
            self._outcomes[report.nodeid] = report.outcome
        else:
            self._outcomes.setdefault(report.nodeid, before)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._remote is None and self._runner is not None:
            runner, self._runner = self._runner, None
            runner.close(interrupt=exitstatus == pytest.ExitCode.INTERRUPTED)

    @pytest.hookimpl(trylast=True, specname="pytest_sessionfinish")
    def pytest_devenv_release(self, session: pytest.Session) -> None:
        # After pytest's own end of fixtures: they may still speak to the machines.
        if self._remote is None:
            self.manager.close()

    # --- what a child asks for ---

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["kind"] == "acquire":
            assert self._session is not None
            wanted = self._session.items[message["index"]].stash[WANTED]
            try:
                found, used = self.manager.acquire(wanted.key, wanted.demand)
            except TestingError as error:
                return {"error": str(error)}
            return {"allocation": found.data(), "used": used}
        if message["kind"] == "install":
            self._installing = self.manager.installing(message["key"])
            return {"todo": self._installing.__enter__()}
        self._end_installing(ok=bool(message["ok"]))
        return {}

    def _end_installing(self, *, ok: bool) -> None:
        lock, self._installing = self._installing, None
        if lock is None:
            return
        if ok:
            lock.__exit__(None, None, None)
            return
        error = TestingError("installers failed")
        try:
            lock.__exit__(type(error), error, None)
        except TestingError:
            return

    # --- the fixture ---

    def _acquire(self, item: pytest.Item, wanted: Wanted) -> tuple[allocation.Allocation, bool]:
        if self._remote is None:
            return self.manager.acquire(wanted.key, wanted.demand)
        data, used, error = self._remote.acquire(item.session.items.index(item))
        if data is None:
            raise TestingError(error)
        return allocation.from_data(data), used

    def _config(self, found: allocation.Allocation) -> BaseConfig:
        """The same object for all tests of this process that use the same machines."""
        known = self._configs.get(found.key)
        if known is None or known.allocation != found:
            self._configs[found.key] = BaseConfig(found)
            self._prepared.discard(found.key)
        return self._configs[found.key]

    def serve(self, request: pytest.FixtureRequest) -> Iterator[BaseConfig]:
        """The machines of a test: prepared before it, cleaned after it."""
        item: pytest.Item = request.node
        wanted = item.stash[WANTED]
        try:
            found, used = self._acquire(item, wanted)
        except TestingError as error:
            pytest.fail(str(error), pytrace=False)
        if not used:
            self._prepared.discard(wanted.key)
        base_config = self._config(found)
        began = time.time()
        hook = item.ihook
        with ExitStack() as stack:
            stack.callback(base_config.clear_plugins)
            stack.callback(installers.run_stage, "teardown", base_config, wanted.demand, request)
            if self.settings.logs:
                target = logs.folder(self.settings.logs, item.nodeid)
                stack.callback(logs.collect, base_config, item, target, began)
            stack.callback(hook.pytest_after_test, item=item, base_config=base_config)
            self._prepare(base_config, wanted, request)
            installers.run_stage("runtest_setup", base_config, wanted.demand, request)
            if used:
                for host in base_config.hosts.values():
                    hook.pytest_clean_between_tests(host=host, item=item)
                hook.pytest_clean_base_btwn_tests(base_config=base_config, item=item)
            installers.run_stage("setup", base_config, wanted.demand, request)
            hook.pytest_after_base_config(base_config=base_config, request=request)
            yield base_config

    def _prepare(self, base_config: BaseConfig, wanted: Wanted, request: pytest.FixtureRequest) -> None:
        if wanted.key in self._prepared:
            return
        installers.run_stage("session", base_config, wanted.demand, request)
        if self.settings.install:
            source = self._remote or self.manager
            with source.installing(wanted.key) as todo:
                if todo:
                    installers.run_stage("session_install", base_config, wanted.demand, request)
                    request.node.ihook.pytest_after_devops_installer(base_config=base_config, request=request)
        self._prepared.add(wanted.key)

    def _collect_for(self, item: pytest.Item, since: float) -> None:
        """Logs of a test whose process could collect none."""
        wanted = item.stash[WANTED]
        if not self.settings.logs or wanted.key not in self.manager.entered:
            return
        try:
            found, _ = self.manager.acquire(wanted.key, wanted.demand)
        except TestingError:
            return
        base_config = BaseConfig(found)
        logs.collect(base_config, item, logs.folder(self.settings.logs, item.nodeid), since)
        base_config.clear_plugins()


def base_config(request: pytest.FixtureRequest) -> Iterator[BaseConfig]:
    """The fixture of this name."""
    if WANTED not in request.node.stash:
        pytest.fail(f"{request.node.nodeid}: no {MARK} says what hosts and clusters it needs", pytrace=False)
    yield from _active(request.config).serve(request)
