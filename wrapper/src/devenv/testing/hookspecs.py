"""Hooks of test runs with hardware. All are optional; docs/testing.md says when each is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from devenv.testing.demand import Demand
    from devenv.testing.objects import BaseConfig, Host


def pytest_before_provisioning(name: str, demand: Demand) -> None:
    """Before machines are made or looked up; ``name`` is the environment's."""


def pytest_after_provisioning(name: str, demand: Demand) -> None:
    """After machines were made."""


def pytest_before_release(name: str) -> None:
    """Before this process gives an environment back."""


def pytest_after_release(name: str, taken_down: bool) -> None:
    """After it; ``taken_down``: nobody else used it, and it is gone."""


def pytest_after_base_config(base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
    """Hosts and clusters are there, and installers have done their part."""


def pytest_after_devops_installer(base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
    """The install stage of all installers is over: once an environment, with --install."""


def pytest_clean_between_tests(host: Host, item: pytest.Item) -> None:
    """Before a test on hosts that another test used: once a host."""


def pytest_clean_base_btwn_tests(base_config: BaseConfig, item: pytest.Item) -> None:
    """Before a test on hosts that another test used: once."""


def pytest_after_test(item: pytest.Item, base_config: BaseConfig) -> None:
    """After a test, before its logs are taken."""


def pytest_download_logs(host: Host, dest_dir: Path) -> None:
    """Put logs of a host of your own into ``dest_dir``, with --devenv-logs."""
