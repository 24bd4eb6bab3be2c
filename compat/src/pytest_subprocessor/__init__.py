"""The plugin ``-p pytest_subprocessor``: each test in a process of its own, which is ``--devenv-isolate``.

The processes are forked, so the options in ``--sf`` apply to the whole run.
"""

from __future__ import annotations

import copy
import os
import shlex
import uuid
import warnings
from collections.abc import Generator
from datetime import datetime
from typing import Any

import pytest

SESSION_ID_ENV_VAR = "HABERTEST_SESSION_ID"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pytest_subprocessor")
    group.addoption(
        "--sf", dest="secondary_flags", action="append", default=[], metavar="OPTIONS",
        help="options of pytest for the processes of the tests, such as '-p PLUGIN --install'; repeatable",
    )  # fmt: skip
    group.addoption(
        "--num-parallel", type=int, default=1, metavar="N", help="run N tests at a time, each on machines of its own"
    )
    group.addoption(
        "--logs-dir",
        metavar="DIR",
        help="collect logs, a directory per test, with links by outcome (default: logs/TIME)",
    )
    group.addoption("--session-id", metavar="ID", help="id of the run, also in HABERTEST_SESSION_ID (default: random)")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_subprocessor import hooks

    pluginmanager.add_hookspecs(hooks)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, Any, Any]:
    known = early_config.known_args_namespace
    words = [word for flags in known.secondary_flags for word in split(flags)]
    if known.num_parallel > 1:
        if not early_config.pluginmanager.hasplugin("xdist"):
            raise pytest.UsageError(f"--num-parallel {known.num_parallel} needs the plugin pytest-xdist")
        words += ["-n", str(known.num_parallel)]
    early_config.pluginmanager.consider_preparse(words)
    args[:0] = words
    again = parser.parse_known_args(args, namespace=copy.copy(early_config.option))
    # For plugins that read it here, such as that of --capture. The paths are those of the command line.
    again.file_or_dir, again.confcutdir = known.file_or_dir, known.confcutdir
    early_config.known_args_namespace = again
    return (yield)


def split(flags: str) -> list[str]:
    """Return the words of one ``--sf``, which a caller may have put into quotes once more; JSON is one word."""
    text = flags.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    return [text] if text.startswith(("{", "[")) else shlex.split(text)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    option.devenv_isolate = True
    option.devenv_logs = option.logs_dir or option.devenv_logs or f"logs/{datetime.now():%Y_%m_%d__%H%M_%S}"
    option.session_id = option.session_id or str(uuid.uuid4())
    os.environ[SESSION_ID_ENV_VAR] = option.session_id
    if option.num_parallel > 1 and option.devenv_scope is None:
        provided = config.pluginmanager.hasplugin("pytest_provisioner")
        grouped = config.pluginmanager.hasplugin("pytest_grouper")
        option.devenv_scope = "function" if provided and not grouped else "worker"
    from pytest_subprocessor.logs import Logs

    config.pluginmanager.register(Logs(option.devenv_logs), "pytest_subprocessor_logs")


def pytest_sessionstart(session: pytest.Session) -> None:
    for implementation in session.config.hook.pytest_get_next_item.get_hookimpls():
        warnings.warn(
            f"{implementation.plugin_name}: pytest_get_next_item is not called; pytest and pytest-xdist choose the "
            "next test, and pytest_collection_modifyitems sets the order",
            stacklevel=1,
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    hook = session.config.hook.pytest_build_items_iter
    if hook.get_hookimpls() and not session.config.option.collectonly:
        from devenv.testing.session import active_session

        hook(session=session, workers=[active_session(session.config).worker])
