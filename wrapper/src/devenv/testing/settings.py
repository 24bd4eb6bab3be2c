"""Options of the command line, as one object."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DEFAULT_MAKER = "devenv"
REMOTE = "habertest"
# Setting of the service: its option, and the variable that stands for it.
SERVICE = {
    "provisioner": "HABERTEST_PROVISIONER",
    "heartbeat": "HABERTEST_HEARTBEAT_SERVER",
    "cert": "HABERTEST_SSL_CERT",
    "key": "HABERTEST_SSL_KEY",
    "ca": "HABERTEST_SSL_CA",
}


@dataclass(frozen=True)
class Settings:
    """``run`` is the same in all processes of one test run. Times are in seconds."""

    run: str
    install: bool
    scope: str
    reuse: bool
    keep: bool
    environment: str
    hardware: Path | None
    overrides: dict[str, Any]
    most: int
    up_timeout: float
    test_timeout: float
    isolation: bool
    logs: Path | None
    allocator: str
    service: dict[str, str]

    @property
    def remote(self) -> bool:
        """Whether machines may be of other kinds than this one's nodes."""
        return self.hardware is not None or self.allocator == REMOTE


def of(config: pytest.Config) -> Settings:
    """The settings of a run. Raises pytest.UsageError for options that exclude each other."""
    option = config.getoption
    given = [flag for flag in ("--devenv-env", "--hardware", "--provisioned-hardware") if option(_dest(flag))]
    if len(given) > 1:
        raise pytest.UsageError(f"one of {', '.join(given)}, not several")
    allocator = option("devenv_allocator") or (REMOTE if option("devenv_provisioner") else DEFAULT_MAKER)
    path = option("devenv_provisioned") or option("devenv_hardware")
    logs = option("devenv_logs")
    return Settings(
        run=_run(config),
        install=bool(option("devenv_install")),
        scope=option("devenv_scope"),
        reuse=bool(option("devenv_reuse")),
        keep=bool(option("devenv_keep")),
        environment=option("devenv_env") or "",
        hardware=Path(path).expanduser() if path else None,
        overrides=_overrides(option("devenv_set")),
        most=int(option("devenv_most")) or max(1, os.cpu_count() or 1),
        up_timeout=float(option("devenv_up_timeout")),
        test_timeout=float(option("devenv_test_timeout")),
        isolation=not (option("devenv_no_isolation") or option("usepdb", False) or option("trace", False)),
        logs=Path(logs).absolute() if logs else None,
        allocator=allocator,
        service=_service(config) if allocator == REMOTE else {},
    )


def _dest(flag: str) -> str:
    return {"--devenv-env": "devenv_env", "--hardware": "devenv_hardware"}.get(flag, "devenv_provisioned")


def _service(config: pytest.Config) -> dict[str, str]:
    found = {key: config.getoption(f"devenv_{key}") or os.environ.get(name, "") for key, name in SERVICE.items()}
    found["heartbeat"] = found["heartbeat"] or found["provisioner"]
    missing = [f"{SERVICE[key]}" for key in ("provisioner", "cert", "key") if not found[key]]
    if missing:
        raise pytest.UsageError(f"the allocator {REMOTE} needs an option or a variable for {', '.join(missing)}")
    return found


def _run(config: pytest.Config) -> str:
    """A word that all workers of pytest-xdist share."""
    worker = getattr(config, "workerinput", None)
    return str(worker["testrunuid"])[:6] if worker else secrets.token_hex(3)


def _overrides(pairs: list[str]) -> dict[str, Any]:
    found = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise pytest.UsageError(f"--devenv-set {pair}: must be KEY=VALUE, a key of a profile by its path")
        found[key] = value
    return found
