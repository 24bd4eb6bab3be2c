"""Hooks of test runs with hardware, all optional; docs/testing.md lists when each is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from devenv.testing.demand import Demand
    from devenv.testing.objects import BaseConfig, Host
    from devenv.testing.session import Worker


def pytest_before_provisioning(name: str, demand: Demand, item: pytest.Item) -> None:
    """Called before machines are created or looked up; ``name``: of the environment; ``item``: its first test."""


def pytest_after_provisioning(name: str, demand: Demand, item: pytest.Item) -> None:
    """Called after machines were created or looked up."""


def pytest_before_release(name: str) -> None:
    """Called before this process releases an environment."""


def pytest_after_release(name: str, taken_down: bool) -> None:
    """Called after the release; ``taken_down``: it had no other user and was removed."""


def pytest_after_base_config(base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
    """Called when hosts and clusters exist and all installers have run."""


def pytest_after_devops_installer(base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
    """Called after the install stage of all installers: once per environment, with --install."""


def pytest_after_proxy_container(host: Host, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
    """Called in the install stage when the proxy of a host answers (installer devops_proxy_container)."""


def pytest_clean_between_tests(host: Host, item: pytest.Item) -> None:
    """Called once per host before a test on hosts that another test used."""


def pytest_clean_base_btwn_tests(base_config: BaseConfig, item: pytest.Item) -> None:
    """Called once before a test on hosts that another test used."""


def pytest_after_test(item: pytest.Item, base_config: BaseConfig) -> None:
    """Called after a test, before its logs are collected."""


def pytest_download_logs(host: Host, dest_dir: Path) -> None:
    """Called with --devenv-logs: write further logs of a host to ``dest_dir``."""


def pytest_start_subprocess(item: pytest.Item, worker: Worker) -> None:
    """Called with --devenv-isolate before the process of a test starts."""


def pytest_before_running_test(item: pytest.Item) -> None:
    """Called with --devenv-isolate after `pytest_start_subprocess`, before the test runs."""


def pytest_after_running_test(item: pytest.Item) -> None:
    """Called with --devenv-isolate when the process of a test has ended, also by a crash."""


def pytest_end_subprocess(item: pytest.Item, worker: Worker) -> None:
    """Called with --devenv-isolate after `pytest_after_running_test`."""


def pytest_before_group_items(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Called at the end of the collection, before tests are grouped by what they request."""


@pytest.hookspec(firstresult=True)
def pytest_can_run_together(item1: pytest.Item, item2: pytest.Item) -> bool | None:
    """Called for tests with equal demands; False gives ``item2`` another environment."""


def pytest_after_group_items(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Called after tests are grouped; ``items`` are in their order."""


def pytest_started_handling_group(session: pytest.Session, worker: Worker) -> None:
    """Called before the first test of an environment in this process."""


def pytest_finished_handling_group(session: pytest.Session, worker: Worker) -> None:
    """Called after the last test of an environment in this process, before it is released."""
