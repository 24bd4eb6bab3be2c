"""Fixtures of the package's tests: a private DEVENV_HOME, and small playbooks for real runs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.runs import Request, Runs
from support.sleepers import new_marker

from devenv import cli
from devenv.runs import runner

Devenv = Callable[..., tuple[int, str, str]]

INVENTORY = """\
all:
  hosts:
    localhost:
      ansible_connection: local
      ansible_python_interpreter: "{{ ansible_playbook_python }}"
    nowhere:
      ansible_host: 127.0.0.1
      ansible_port: 1
"""


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide the environments of the user who runs the tests."""
    home = tmp_path / "home"
    monkeypatch.setenv("DEVENV_HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (
        "DEVENV_NAME",
        "DEVENV_PROFILE",
        "DEVENV_RUN",
        "DEVENV_OWNER",
        "KUBECONFIG",
        "ARTIFACT_DIR",
        "NO_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def devenv(capsys: pytest.CaptureFixture[str]) -> Devenv:
    """Run the command in this process; return (exit code, stdout, stderr)."""

    def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(list(argv))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The replacement of the runner: nothing runs."""
    recorder = Runs()
    monkeypatch.setattr(runner, "run", recorder)
    return recorder


@pytest.fixture
def requests(runs: Runs) -> list[Request]:
    """The requests to the replaced runner."""
    return runs.requests


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yml"
    path.write_text(INVENTORY)
    return path


@pytest.fixture
def playbook(tmp_path: Path) -> Callable[[str], str]:
    """Write a playbook and return its path."""

    def write(text: str) -> str:
        path = tmp_path / "playbook.yml"
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


@pytest.fixture
def marker() -> Iterator[str]:
    """A number of seconds that identifies the sleep processes of this test, which are killed at its end."""
    yield from new_marker()


@pytest.fixture
def made(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Create the state directory of an environment as a run does, without nodes on this machine."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, state
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman

    monkeypatch.setattr(podman, "containers", lambda environment=None: [])
    monkeypatch.setattr(podman, "networks", lambda environment=None: [])

    def make(
        name: str, profile_name: str = "aio", *, claimed: bool = True, overrides: dict[str, object] | None = None
    ) -> Path:
        folder = paths.environment(name)
        folder.mkdir(parents=True)
        resolved = resolve(profile_name, overrides=overrides or {})
        state.write_profile(folder, resolved)
        if claimed:
            state.write_network(folder, {**network_plan.make(resolved, {"ipv4": "10.213.9.0/24"}), "bridge": "podman9"})
            state.write_inventory(folder)
        return folder

    return make
