"""Hooks of test runs with hardware, all optional; docs/testing.md lists when each is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from devenv.testing.demand import Demand
    from devenv.testing.objects import BaseConfig, Host


def pytest_before_provisioning(name: str, demand: Demand) -> None:
    """Called before machines are created or looked up; ``name`` is the environment's."""


def pytest_after_provisioning(name: str, demand: Demand) -> None:
    """Called after machines were created or looked up."""


def pytest_before_release(name: str) -> None:
    """Called before this process releases an environment."""


def pytest_after_release(name: str, taken_down: bool) -> None:
    """Called after the release; ``taken_down``: it had no other user and was removed."""


def pytest_after_base_config(base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
    """Called when hosts and clusters exist and all installers have run."""


def pytest_after_devops_installer(base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
    """Called after the install stage of all installers: once per environment, with --install."""


def pytest_clean_between_tests(host: Host, item: pytest.Item) -> None:
    """Called once per host before a test on hosts that another test used."""


def pytest_clean_base_btwn_tests(base_config: BaseConfig, item: pytest.Item) -> None:
    """Called once before a test on hosts that another test used."""


def pytest_after_test(item: pytest.Item, base_config: BaseConfig) -> None:
    """Called after a test, before its logs are collected."""


def pytest_download_logs(host: Host, dest_dir: Path) -> None:
    """Called with --devenv-logs: write further logs of a host to ``dest_dir``."""
