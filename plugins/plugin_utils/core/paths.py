"""Where devenv keeps things on the controller. Pure functions of the environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

COLLECTION = Path(__file__).resolve().parents[3]
CONFIGS = COLLECTION / "configs"

# Machine-wide on purpose: names and subnets are shared by every DEVENV_HOME of the machine.
LOCKS = Path("/run/lock/devenv")


def _xdg(env: Mapping[str, str], variable: str, default: str) -> Path:
    value = env.get(variable, "")
    # The XDG specification says that relative paths are to be ignored.
    return Path(value) if value.startswith("/") else Path(env.get("HOME") or os.path.expanduser("~")) / default


def home(env: Mapping[str, str] | None = None) -> Path:
    """``$DEVENV_HOME``, else ``$XDG_STATE_HOME/devenv``; holds ``environments/`` and ``history/``."""
    env = os.environ if env is None else env
    chosen = env.get("DEVENV_HOME", "")
    return Path(chosen).absolute() if chosen else _xdg(env, "XDG_STATE_HOME", ".local/state") / "devenv"


def environment(name: str, env: Mapping[str, str] | None = None) -> Path:
    """State folder of the environment ``name``."""
    return home(env) / "environments" / name


def cache(env: Mapping[str, str] | None = None) -> Path:
    """``$XDG_CACHE_HOME/devenv``: bundle, node image, image store. May be removed at any time."""
    return _xdg(os.environ if env is None else env, "XDG_CACHE_HOME", ".cache") / "devenv"
