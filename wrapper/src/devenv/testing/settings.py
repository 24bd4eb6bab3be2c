"""The options of the command line as one object."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HABERTEST = "habertest"
# Setting of the service to the variable that can replace its option.
SERVICE = {
    "provisioner": "HABERTEST_PROVISIONER",
    "heartbeat": "HABERTEST_HEARTBEAT_SERVER",
    "cert": "HABERTEST_SSL_CERT",
    "key": "HABERTEST_SSL_KEY",
    "ca": "HABERTEST_SSL_CA",
}


@dataclass(frozen=True)
class Settings:
    """Settings of a test run. ``run`` is the same in all its processes. Times are in seconds."""

    run: str
    install: bool
    scope: str
    reuse: bool
    keep: bool
    environment: str
    hardware: Path | None
    overrides: dict[str, Any]
    most: int
    up_timeout: float | None
    test_timeout: float
    isolate: bool
    logs: Path | None
    allocator: str
    service: dict[str, str]


def read(config: pytest.Config) -> Settings:
    """Return the settings of a run. Raises pytest.UsageError for mutually exclusive options."""
    option = config.getoption
    sources = {
        "--devenv-env": option("devenv_env"),
        "--hardware": option("devenv_hardware"),
        "--provisioned-hardware": option("devenv_provisioned"),
    }
    given = [flag for flag, value in sources.items() if value]
    if len(given) > 1:
        raise pytest.UsageError(f"{', '.join(given)}: use only one of them")
    allocator = option("devenv_allocator") or (HABERTEST if option("devenv_provisioner") else "devenv")
    path = sources["--provisioned-hardware"] or sources["--hardware"]
    logs = option("devenv_logs")
    # All workers of pytest-xdist share an id.
    worker = getattr(config, "workerinput", None)
    return Settings(
        run=str(worker["testrunuid"])[:6] if worker else secrets.token_hex(3),
        install=option("devenv_install"),
        scope=option("devenv_scope") or "session",
        reuse=option("devenv_reuse"),
        keep=option("devenv_keep"),
        environment=option("devenv_env") or "",
        hardware=Path(path).expanduser() if path else None,
        overrides=_overrides(option("devenv_set")),
        most=option("devenv_most") or os.cpu_count() or 1,
        up_timeout=option("devenv_up_timeout"),
        test_timeout=option("devenv_test_timeout"),
        isolate=option("devenv_isolate"),
        logs=Path(logs).absolute() if logs else None,
        allocator=allocator,
        service=_service(config) if allocator == HABERTEST else {},
    )


def _service(config: pytest.Config) -> dict[str, str]:
    values = {key: config.getoption(f"devenv_{key}") or os.environ.get(name, "") for key, name in SERVICE.items()}
    values["heartbeat"] = values["heartbeat"] or values["provisioner"]
    missing = [SERVICE[key] for key in ("provisioner", "cert", "key") if not values[key]]
    if missing:
        raise pytest.UsageError(f"the allocator {HABERTEST} needs an option or a variable for {', '.join(missing)}")
    return values


def _overrides(pairs: list[str]) -> dict[str, Any]:
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise pytest.UsageError(f"--devenv-set {pair}: use KEY=VALUE, with the path of a profile key")
        overrides[key] = value
    return overrides
