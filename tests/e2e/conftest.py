"""Fixtures for real clusters: unique names, one DEVENV_HOME per test session, removal by `devenv down`."""

from __future__ import annotations

import itertools
import json
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.commands import Typed, shown


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """The user who types the commands. Nothing of this user may remain at the end."""
    typed = Typed(tmp_path_factory.mktemp("devenv"))
    yield typed
    failed = []
    for folder in sorted((typed.home / "environments").glob("*")):
        done = typed.devenv("down", "--name", folder.name, code=None)
        if done.returncode != 0:
            failed.append(shown(done))
    assert failed == []
    assert remaining(typed.home) == []


def remaining(home: Path) -> list[str]:
    """Return the containers and networks whose label has ``home``, and the folders of virtual machines of ``home``."""
    records = Path("/run/devenv/libvirt").glob("*/environment.json")
    leftovers = [str(record.parent) for record in records if json.loads(record.read_text())["home"] == str(home)]
    for command in (["ps", "--all"], ["network", "ls"]):
        listed = subprocess.run(
            ["podman", *command, f"--filter=label=devenv.home={home}", "--format=json"],
            capture_output=True,
            text=True,
            check=True,
        )
        for row in json.loads(listed.stdout or "[]") or []:
            names = row.get("Names") or [row.get("name")]
            leftovers += [str(name) for name in names]
    return leftovers


@pytest.fixture(scope="session")
def new_name() -> Callable[[str], str]:
    """``new_name("aio")`` returns a name that no other environment on this machine has."""
    session, numbers = secrets.token_hex(2), itertools.count(1)
    return lambda word: f"e2e-{word}-{session}-{next(numbers)}"


@pytest.fixture
def environment(user: Typed, new_name: Callable[[str], str], request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for one test, after which its environment is removed."""
    name = new_name("one")
    yield name
    user.devenv("down", "--name", name)
