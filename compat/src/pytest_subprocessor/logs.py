"""The log records of each test's process, next to the logs of its machines."""

from __future__ import annotations

import logging
from collections.abc import Generator
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact

from devenv.testing import logs

FORMAT = "%(asctime)s.%(msecs)03d %(threadName)s %(levelname)s %(message)s (%(funcName)s, %(pathname)s:%(lineno)d)"
FILES = {"debug.log": logging.DEBUG, "info.log": logging.INFO}
# At the level DEBUG, they log the bodies of requests and responses.
_VERBOSE = ("kubernetes", "urllib3")


class _Redacted(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class Logs:
    """Writes ``debug.log`` and ``info.log`` to the folder of each test, and links the folder by the test's outcome.

    The hooks of setup and teardown are called in the process of a test, the others in that of pytest.
    """

    def __init__(self, top: str) -> None:
        self._top = Path(top).absolute()
        self._outcomes: dict[str, str] = {}
        self._handlers: list[logging.Handler] = []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        folder = logs.folder(self._top, item.nodeid)
        folder.mkdir(parents=True, exist_ok=True)
        root = logging.getLogger()
        root.setLevel(logging.DEBUG)
        for name in _VERBOSE:
            logging.getLogger(name).setLevel(logging.INFO)
        for name, level in FILES.items():
            handler = logging.FileHandler(folder / name)
            handler.setLevel(level)
            handler.setFormatter(_Redacted(FORMAT, "%Y-%m-%d %H:%M:%S"))
            root.addHandler(handler)
            self._handlers.append(handler)
        yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        try:
            yield
        finally:
            for handler in self._handlers:
                logging.getLogger().removeHandler(handler)
                handler.close()
            self._handlers.clear()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._outcomes[report.nodeid] = logs.worst(self._outcomes.get(report.nodeid, "passed"), report.outcome)

    def pytest_end_subprocess(self, item: pytest.Item) -> None:
        logs.link(self._top, item.nodeid, self._outcomes.pop(item.nodeid, "failed"))
