"""The pytest plugin of devenv, loaded by every pytest of a Python environment that has devenv.

It imports only the standard library and pytest until a test requests hardware; `devenv.testing.session` does the work.
"""

from __future__ import annotations

import inspect
import itertools
import os
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from devenv.testing import MARK

if TYPE_CHECKING:
    from devenv.testing.objects import BaseConfig
    from devenv.testing.session import HardwareSession

# Name after --devenv-, short name, settings. A short name exists unless another plugin or a conftest has it.
_OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("install", "--install", {"action": "store_true", "help": "create missing clusters"}),
    (
        "scope", "--fixture-scope", {
            "choices": ("function", "module", "worker", "session"),
            "help": "scope in which tests with equal demands share an environment: function, module, worker (of "
            "pytest-xdist) or session (default: session)",
        },
    ),
    ("reuse", "", {"action": "store_true", "help": "leave environments for the next run"}),
    ("keep", "", {"action": "store_true", "help": "leave environments on which a test failed"}),
    ("env", "", {"metavar": "NAME", "help": "use the machines of this environment"}),
    ("hardware", "--hardware", {"metavar": "FILE", "help": "use the machines in a YAML file"}),
    (
        "provisioned-hardware", "--provisioned-hardware",
        {"metavar": "FILE", "dest": "devenv_provisioned", "help": "use the machines in a JSON file"},
    ),
    ("set", "", {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "set a key of the profile"}),
    (
        "environments", "", {
            "type": int, "default": 0, "metavar": "N", "dest": "devenv_most",
            "help": "maximum number of environments at once (default: the number of CPUs)",
        },
    ),
    (
        "up-timeout", "", {
            "type": float, "metavar": "SECONDS",
            "help": "time limit for creating an environment (default: that of its engine, 1800 for k8s; 0: no limit)",
        },
    ),
    (
        "test-timeout", "", {
            "type": float, "default": 3600, "metavar": "SECONDS",
            "help": "time limit for a test with hardware (default: 3600; 0: no limit)",
        },
    ),
    ("isolate", "", {"action": "store_true", "help": "run each test in a process of its own"}),
    ("logs", "", {"metavar": "DIR", "help": "collect logs of hosts and clusters, a directory per test"}),
    ("allocator", "", {"metavar": "NAME", "help": "allocator of machines: devenv, habertest"}),
    (
        "provisioner", "--provisioner",
        {"metavar": "URL", "help": "address of a habertest service, which then supplies the machines"},
    ),
    ("heartbeat", "--heartbeat", {"metavar": "URL", "help": "address of its heartbeat server (default: the same)"}),
    ("cert", "--ssl-cert", {"metavar": "FILE", "help": "client certificate for the service"}),
    ("key", "--ssl-key", {"metavar": "FILE", "help": "key of the client certificate"}),
    (
        "ca", "--ssl-ca",
        {"metavar": "FILE", "help": "CAs for the service's certificate (default: those of this machine)"},
    ),
)  # fmt: skip


def _add(parser: pytest.Parser, option: str, name: str, settings: dict[str, Any]) -> None:
    group = parser.getgroup("devenv", "hardware and clusters (devenv)")
    group.addoption(option, **{"dest": f"devenv_{name.replace('-', '_')}", **settings})


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, _, settings in _OPTIONS:
        _add(parser, f"--devenv-{name}", name, settings)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, Any, Any]:
    _separate_from_paths(early_config, args)
    result = yield
    groups = [parser._anonymous, *parser._groups]
    taken = {name for group in groups for option in group.options for name in option.names()}
    for name, short, settings in _OPTIONS:
        if short and short not in taken:
            _add(parser, short, name, settings)
    return result


def _separate_from_paths(config: pytest.Config, args: list[str]) -> None:
    """Remove the values of short names from the paths of tests: pytest takes them for such until it has the names.

    It has searched for its configuration above these paths, before it loaded plugins. Raises UsageError if the result
    is not that of the project.
    """
    with_value = [(name, short) for name, short, settings in _OPTIONS if settings.get("action") != "store_true"]
    short_names = {short for _, short in with_value if short}
    names = short_names | {f"--devenv-{name}" for name, _ in with_value}
    values = [(option, value) for option, value in itertools.pairwise(args) if option in names]
    paths = config.known_args_namespace.file_or_dir
    for option, value in values:
        if option in short_names and value in paths:
            paths.remove(value)
    suspects = [(option, value) for option, value in values if os.path.exists(value)]
    if suspects and _setup(config) != (config.rootpath, config.inipath):
        raise pytest.UsageError(
            "; ".join(
                f"{option} {value}: write {option}={value}, else pytest searches for the project's configuration there"
                for option, value in suspects
            )
        )


def _setup(config: pytest.Config) -> tuple[Any, ...]:
    """Return the root directory and the configuration file that pytest finds with the paths of tests."""
    from _pytest.config.findpaths import determine_setup

    known = config.known_args_namespace
    values: dict[str, Any] = {
        "inifile": known.inifilename, "override_ini": None, "args": known.file_or_dir,
        "rootdir_cmd_arg": known.rootdir or None, "invocation_dir": config.invocation_params.dir,
    }  # fmt: skip
    # Releases of pytest differ in the arguments.
    accepted = inspect.signature(determine_setup).parameters
    return determine_setup(**{name: value for name, value in values.items() if name in accepted})[:2]


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from devenv.testing import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARK}(hardware, grouping, scope, timeout): hosts and clusters that a test needs (devenv)"
    )
    for option, dest in (("--pdb", "usepdb"), ("--trace", "trace")):
        if config.option.devenv_isolate and config.getoption(dest, False):
            raise pytest.UsageError(f"--devenv-isolate, {option}: use only one of them; a child has no terminal")


def _session(config: pytest.Config) -> HardwareSession:
    from devenv.testing import session

    return session.active_session(config)


def _has_hardware(items: list[pytest.Item]) -> bool:
    return any(item.get_closest_marker(MARK) is not None or _uses_fixture(item) for item in items)


def _uses_fixture(item: pytest.Item) -> bool:
    # A parameter of a test may have the same name.
    parameters = getattr(getattr(item, "callspec", None), "params", ())
    return "base_config" in getattr(item, "fixturenames", ()) and "base_config" not in parameters


@pytest.hookimpl(tryfirst=True, specname="pytest_collection_modifyitems")
def pytest_devenv_groups(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Before pytest-xdist reads the groups.
    if config.getoption("loadgroup", False) and _has_hardware(items):
        _session(config).mark_groups(items)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    # Here every test has all its markers, also those that a conftest adds.
    if config.option.devenv_isolate or _has_hardware(items):
        _session(config).select(session, items)


@pytest.fixture
def base_config(request: pytest.FixtureRequest) -> Iterator[BaseConfig]:
    """Hosts and clusters that the test requested with ``hardware_config``; also ``self.base_config`` of a TestCase."""
    for config in _session(request.config).serve(request):
        if isinstance(request.instance, getattr(sys.modules.get("unittest"), "TestCase", ())):
            vars(request.instance)["base_config"] = config
        yield config
