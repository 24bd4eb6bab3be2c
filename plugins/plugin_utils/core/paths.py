"""Paths on the controller, derived from environment variables."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

COLLECTION = Path(__file__).resolve().parents[3]
CONFIGS = COLLECTION / "configs"

# Machine-wide on purpose: every DEVENV_HOME of the machine shares names and subnets.
LOCKS = Path("/run/lock/devenv")


def _xdg(env: Mapping[str, str], variable: str, default: str) -> Path:
    value = env.get(variable, "")
    # The XDG specification requires to ignore relative paths.
    return Path(value) if value.startswith("/") else user_home(env) / default


def user_home(env: Mapping[str, str] | None = None) -> Path:
    """Return ``$HOME``; if it is missing, empty or relative, the home directory of the user database, else ``/``."""
    chosen = (os.environ if env is None else env).get("HOME", "")
    if chosen.startswith("/"):
        return Path(chosen)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # an arbitrary uid, as in containers of OpenShift
        return Path("/")


def home(env: Mapping[str, str] | None = None) -> Path:
    """Return ``$DEVENV_HOME``, else ``$XDG_STATE_HOME/devenv``: the parent of ``environments/`` and ``history/``."""
    env = os.environ if env is None else env
    chosen = env.get("DEVENV_HOME", "")
    return Path(chosen).absolute() if chosen else _xdg(env, "XDG_STATE_HOME", ".local/state") / "devenv"


def environments(env: Mapping[str, str] | None = None) -> Path:
    """Return the parent of all state directories."""
    return home(env) / "environments"


def environment(name: str, env: Mapping[str, str] | None = None) -> Path:
    """Return the state directory of the environment ``name``."""
    return environments(env) / name


def cache(env: Mapping[str, str] | None = None) -> Path:
    """Return ``$XDG_CACHE_HOME/devenv``, for bundle, node image, image store. It can be removed at any time."""
    return _xdg(os.environ if env is None else env, "XDG_CACHE_HOME", ".cache") / "devenv"
