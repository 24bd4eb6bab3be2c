"""Files of machines in the formats of pytest_automation_infra, as those of devenv."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

DEFAULT = "~/.local/hardware.yaml"
# Options that name machines; each excludes the default file.
_SOURCES = ("devenv_env", "devenv_hardware", "devenv_provisioned", "devenv_allocator", "devenv_provisioner")


def files(config: pytest.Config) -> tuple[str | None, str | None]:
    """Return the values of ``--hardware`` (the default file if no option names machines) and
    ``--provisioned-hardware`` (a file or JSON) as files that devenv reads.
    """
    option = config.option
    default = Path(DEFAULT).expanduser()
    hardware = option.devenv_hardware
    provisioned = config.pluginmanager.hasplugin("pytest_provisioner")
    if default.is_file() and not provisioned and not any(getattr(option, source) for source in _SOURCES):
        hardware = str(default)
    return _converted(config, hardware), _converted(config, option.devenv_provisioned)


def _converted(config: pytest.Config, value: str | None) -> str | None:
    """Return a private copy with the key ``hosts`` of a document without it, else ``value``."""
    if not value:
        return value
    try:
        text = value if value.lstrip().startswith("{") else Path(value).expanduser().read_text()
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return value  # devenv reports the mistake when a test needs the machines
    if not isinstance(data, dict) or (text is not value and "hosts" in data):
        return value
    folder = tempfile.mkdtemp(prefix="devenv-machines-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    path = Path(folder, "machines.json")
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as stream:
        json.dump(_with_hosts(data), stream)
    return str(path)


def _with_hosts(data: dict[str, Any]) -> dict[str, Any]:
    if "hosts" in data:
        return data
    return {"hosts": data["machines"] if isinstance(data.get("machines"), dict) else data}
