"""Paths on the controller follow from environment variables, also if HOME is missing."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

OWN = pwd.getpwuid(os.getuid()).pw_dir


@pytest.mark.parametrize(
    ("env", "home"),
    [({"HOME": "/h"}, "/h"), ({}, OWN), ({"HOME": ""}, OWN), ({"HOME": "relative"}, OWN)],
)
def test_a_missing_home_is_that_of_the_user_database(env: dict[str, str], home: str) -> None:
    assert paths.home(env) == Path(home) / ".local/state/devenv"
    assert paths.cache(env) == Path(home) / ".cache/devenv"


def test_a_user_without_an_entry_gets_the_root_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert paths.user_home({}) == Path("/")


def test_own_directories_need_no_home() -> None:
    env = {"DEVENV_HOME": "/s", "XDG_CACHE_HOME": "/c"}
    assert (paths.home(env), paths.cache(env)) == (Path("/s"), Path("/c/devenv"))
