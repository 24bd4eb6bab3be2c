"""The pytest plugin of devenv, loaded by every pytest of an environment where devenv is installed.

It imports nothing but the standard library and pytest, and does nothing, until a test asks for hardware; then
`devenv.testing.session` takes over.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from devenv.testing.marks import MARK, SESSION

if TYPE_CHECKING:
    from devenv.testing.objects import BaseConfig


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    group = parser.getgroup("devenv", "hardware and clusters (devenv)")

    def add(short: str, name: str, **words: Any) -> None:
        # Another plugin may have the short name already: ours with the prefix is there in any case.
        try:
            group.addoption(*filter(None, (short, f"--devenv-{name}")), **words)
        except ValueError:
            group.addoption(f"--devenv-{name}", **words)

    add("--install", "install", action="store_true", dest="devenv_install", help="make clusters that are not there")
    add(
        "--fixture-scope", "scope", choices=("function", "module", "session"), default="session", dest="devenv_scope",
        help="how far tests with equal demands share an environment (default: session)",
    )  # fmt: skip
    add("", "reuse", action="store_true", dest="devenv_reuse", help="leave environments for the next run")
    add("", "keep", action="store_true", dest="devenv_keep", help="leave environments on which a test failed")
    add("", "env", metavar="NAME", dest="devenv_env", help="use the machines of this environment")
    add("--hardware", "hardware", metavar="FILE", dest="devenv_hardware", help="use machines that a YAML file lists")
    add(
        "--provisioned-hardware", "provisioned-hardware", metavar="FILE", dest="devenv_provisioned",
        help="use machines that a JSON file lists",
    )  # fmt: skip
    add("", "set", action="append", default=[], metavar="KEY=VALUE", dest="devenv_set", help="a key of the profile")
    add(
        "", "environments", type=int, default=0, metavar="N", dest="devenv_most",
        help="how many environments there may be at once (default: one a CPU)",
    )  # fmt: skip
    add(
        "", "up-timeout", type=float, default=1800, metavar="SECONDS", dest="devenv_up_timeout",
        help="how long an environment may take to be made (default: 1800)",
    )  # fmt: skip
    add(
        "", "test-timeout", type=float, default=3600, metavar="SECONDS", dest="devenv_test_timeout",
        help="how long a test with hardware may take (default: 3600; 0: for ever)",
    )  # fmt: skip
    add("", "no-isolation", action="store_true", dest="devenv_no_isolation", help="run all tests in this process")
    add("", "logs", metavar="DIR", dest="devenv_logs", help="collect logs of hosts and clusters, a folder a test")
    add("", "allocator", metavar="NAME", dest="devenv_allocator", help="what makes machines: devenv, habertest")
    for short, name, what in (
        ("--provisioner", "provisioner", "address of a habertest service, which then makes the machines"),
        ("--heartbeat", "heartbeat", "address of its heartbeat server (default: the same)"),
        ("--ssl-cert", "cert", "certificate to show there"),
        ("--ssl-key", "key", "key of the certificate"),
        ("--ssl-ca", "ca", "authorities that may have signed the service's (default: those of this machine)"),
    ):
        add(short, name, metavar="URL" if "address" in what else "FILE", dest=f"devenv_{name}", help=what)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from devenv.testing import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARK}(hardware, grouping, scope, timeout): hosts and clusters that a test needs (devenv)"
    )


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector) -> Generator[None, Any, Any]:
    found = yield
    if isinstance(found, list):
        for item in found:
            if isinstance(item, pytest.Function) and (
                "base_config" in item.fixturenames or item.get_closest_marker(MARK) is not None
            ):
                from devenv.testing import session

                session.collected(item)
    return found


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.pluginmanager.has_plugin(SESSION):
        from devenv.testing import session as active

        active.arrange(config, items)


@pytest.fixture
def base_config(request: pytest.FixtureRequest) -> Iterator[BaseConfig]:
    """Hosts and clusters that the test asked for by ``hardware_config``."""
    from devenv.testing import session

    yield from session.base_config(request)
