"""The pytest plugin of devenv, loaded by every pytest of a Python environment that has devenv.

It imports only the standard library and pytest until a test requests hardware; `devenv.testing.session` does the work.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from devenv.testing import MARK

if TYPE_CHECKING:
    from devenv.testing.objects import BaseConfig


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("devenv", "hardware and clusters (devenv)")

    def add(short: str, name: str, **settings: Any) -> None:
        # Another plugin may have the short name already; the name with the prefix always works.
        try:
            group.addoption(*filter(None, (short, f"--devenv-{name}")), **settings)
        except ValueError:
            group.addoption(f"--devenv-{name}", **settings)

    add("--install", "install", action="store_true", dest="devenv_install", help="create missing clusters")
    add(
        "--fixture-scope", "scope", choices=("function", "module", "session"), default="session", dest="devenv_scope",
        help="scope in which tests with equal demands share an environment (default: session)",
    )  # fmt: skip
    add("", "reuse", action="store_true", dest="devenv_reuse", help="leave environments for the next run")
    add("", "keep", action="store_true", dest="devenv_keep", help="leave environments on which a test failed")
    add("", "env", metavar="NAME", dest="devenv_env", help="use the machines of this environment")
    add("--hardware", "hardware", metavar="FILE", dest="devenv_hardware", help="use the machines in a YAML file")
    add(
        "--provisioned-hardware", "provisioned-hardware", metavar="FILE", dest="devenv_provisioned",
        help="use the machines in a JSON file",
    )  # fmt: skip
    add("", "set", action="append", default=[], metavar="KEY=VALUE", dest="devenv_set", help="set a key of the profile")
    add(
        "", "environments", type=int, default=0, metavar="N", dest="devenv_most",
        help="maximum number of environments at once (default: the number of CPUs)",
    )  # fmt: skip
    add(
        "", "up-timeout", type=float, metavar="SECONDS", dest="devenv_up_timeout",
        help="time limit for creating an environment (default: that of its engine, 1800 for k8s; 0: no limit)",
    )  # fmt: skip
    add(
        "", "test-timeout", type=float, default=3600, metavar="SECONDS", dest="devenv_test_timeout",
        help="time limit for a test with hardware (default: 3600; 0: no limit)",
    )  # fmt: skip
    add("", "no-isolation", action="store_true", dest="devenv_no_isolation", help="run all tests in this process")
    add("", "logs", metavar="DIR", dest="devenv_logs", help="collect logs of hosts and clusters, a directory per test")
    add("", "allocator", metavar="NAME", dest="devenv_allocator", help="allocator of machines: devenv, habertest")
    for short, name, metavar, text in (
        ("--provisioner", "provisioner", "URL", "address of a habertest service, which then supplies the machines"),
        ("--heartbeat", "heartbeat", "URL", "address of its heartbeat server (default: the same)"),
        ("--ssl-cert", "cert", "FILE", "client certificate for the service"),
        ("--ssl-key", "key", "FILE", "key of the client certificate"),
        ("--ssl-ca", "ca", "FILE", "CAs for the service's certificate (default: those of this machine)"),
    ):
        add(short, name, metavar=metavar, dest=f"devenv_{name}", help=text)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from devenv.testing import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARK}(hardware, grouping, scope, timeout): hosts and clusters that a test needs (devenv)"
    )


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    items = yield
    for item in items if isinstance(items, list) else ():
        if isinstance(item, pytest.Function) and (
            "base_config" in item.fixturenames or item.get_closest_marker(MARK) is not None
        ):
            from devenv.testing import session

            session.collected(item)
    return items


@pytest.fixture
def base_config(request: pytest.FixtureRequest) -> Iterator[BaseConfig]:
    """Hosts and clusters that the test requested with ``hardware_config``."""
    from devenv.testing import session

    yield from session.active_session(request.config).serve(request)
