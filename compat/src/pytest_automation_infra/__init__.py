"""The plugin ``-p pytest_automation_infra``: settings of its test suites, applied to the pytest plugin of devenv."""

from __future__ import annotations

import pytest

from devenv.testing.registry import HOST
from pytest_automation_infra import machines


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pytest_automation_infra")
    group.addoption(
        "--extra-tests", default="", metavar="FILES", help="mark the tests of these modules (comma-separated) as extra"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    from automation_infra.plugins import ssh, ssh_direct, tunnel_manager

    config.addinivalue_line("markers", "extra: a test of a module that --extra-tests names")
    config.option.devenv_hardware, config.option.devenv_provisioned = machines.files(config)
    # A project may have replaced them in its conftest.py.
    plugins = {"SSH": ssh.SSH, "SshDirect": ssh_direct.SshDirect, "TunnelManager": tunnel_manager.TunnelManager}
    for name, plugin in plugins.items():
        HOST.register(name, plugin, replace=False, checked=False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    modules = config.option.extra_tests.split(",")
    for item in items:
        if item.parent is not None and item.parent.name.rpartition("/")[2] in modules:
            item.add_marker(pytest.mark.extra)


def determine_scope(fixture_name: str, config: pytest.Config) -> str:
    """Return ``--fixture-scope``, for ``pytest.fixture(scope=determine_scope)``."""
    scope: str = config.option.devenv_scope or "session"
    return "session" if scope == "worker" else scope
