"""The plugin ``-p pytest_provisioner``: machines come from the service that ``--provisioner`` or HABERTEST_PROVISIONER
names. As in the original, each test gets machines of its own, unless pytest_grouper is loaded too.
"""

from __future__ import annotations

import pytest

from devenv.testing.settings import HABERTEST


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    option.devenv_allocator = option.devenv_allocator or HABERTEST
    if option.devenv_scope is None and not config.pluginmanager.hasplugin("pytest_grouper"):
        option.devenv_scope = "function"
