"""Real clusters, each of a name of its own, in one DEVENV_HOME a test session; taken down by our own `down`."""

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
    """Who types the commands. At the end nothing that this user made may be left."""
    typed = Typed(tmp_path_factory.mktemp("devenv"))
    yield typed
    failed = []
    for folder in sorted((typed.home / "environments").glob("*")):
        done = typed.devenv("down", "--name", folder.name, code=None)
        if done.returncode != 0:
            failed.append(shown(done))
    assert failed == []
    assert left(typed.home) == []


def left(home: Path) -> list[str]:
    """Names of containers and networks that carry ``home`` in their label, and folders of virtual machines that do."""
    records = Path("/run/devenv/libvirt").glob("*/environment.json")
    found = [str(record.parent) for record in records if json.loads(record.read_text())["home"] == str(home)]
    for words in (["ps", "--all"], ["network", "ls"]):
        listed = subprocess.run(
            ["podman", *words, f"--filter=label=devenv.home={home}", "--format=json"],
            capture_output=True,
            text=True,
            check=True,
        )
        for row in json.loads(listed.stdout or "[]") or []:
            names = row.get("Names") or [row.get("name")]
            found += [str(name) for name in names]
    return found


@pytest.fixture(scope="session")
def new_name() -> Callable[[str], str]:
    """``new_name("aio")`` gives a name that no other environment of this machine has."""
    session, numbers = secrets.token_hex(2), itertools.count(1)
    return lambda word: f"e2e-{word}-{session}-{next(numbers)}"


@pytest.fixture
def environment(user: Typed, new_name: Callable[[str], str], request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for one test; what the test made of it is taken down after it."""
    name = new_name("one")
    yield name
    user.devenv("down", "--name", name)
