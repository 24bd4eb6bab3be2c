"""What plugins leave behind: nothing on a machine whose test has ended, and no process here if it was interrupted."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait

from devenv.testing.errors import CommandFailed, NotAvailable
from devenv.testing.plugins import programs
from devenv.testing.plugins.admin import Admin
from devenv.testing.plugins.kubectl import Kubectl
from devenv.testing.plugins.tunnels import TunnelManager

ZONES = ("Europe/Paris", "Asia/Tokyo")


class Local:
    """SshDirect of a host whose shell prints a greeting to stderr. Its commands run here, with a folder as its root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, command: str, **options: Any) -> Any:
        line = re.sub(r"/(etc|usr/share)/", rf"{self.root}/\1/", command)
        argv = ["sh", "-c", f"echo hello >&2; {line}"]
        done = subprocess.run(argv, env={**os.environ, "HOME": str(self.root)}, capture_output=True, text=True)
        return SimpleNamespace(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def execute(self, command: str, **options: Any) -> str:
        result = self.run(command)
        if result.code:
            raise CommandFailed("host1", command, result.code, result.stdout, result.stderr)
        return str(result.stdout)


@pytest.fixture
def host(tmp_path: Path) -> Any:
    for zone in ZONES:
        file = tmp_path / "usr/share/zoneinfo" / zone
        file.parent.mkdir(parents=True)
        file.write_text(zone)
    (tmp_path / "etc").mkdir()
    return SimpleNamespace(name="host1", SshDirect=Local(tmp_path))


# --- on the machine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "create",
    [
        lambda zone: zone.symlink_to("../usr/share/zoneinfo/Europe/Paris"),
        lambda zone: zone.symlink_to("../usr/share/zoneinfo/Nowhere"),
        lambda zone: zone.write_text("a file"),
        lambda zone: None,
    ],
    ids=["link", "broken link", "file", "none"],
)
def test_the_time_zone_is_restored_as_it_was_also_after_a_crash(
    host: Any, tmp_path: Path, create: Callable[[Path], None]
) -> None:
    zone = tmp_path / "etc" / "localtime"
    create(zone)

    def state() -> list[tuple[str, str]]:
        return [
            (file.name, os.readlink(file) if file.is_symlink() else file.read_text()) for file in zone.parent.iterdir()
        ]

    before = state()
    for name in ZONES:
        Admin(host).set_timezone(name)
        assert zone.read_text() == name
    # As in another process.
    Admin(host).reset_state()
    assert state() == before
    Admin(host).reset_state()
    with pytest.raises(CommandFailed):
        Admin(host).set_timezone("Mars/Olympus")
    assert state() == before


def test_a_missing_program_or_kubeconfig_is_named_whatever_the_shell_prints(host: Any) -> None:
    with pytest.raises(NotAvailable, match="host1: no-such-program does not exist there"):
        programs.execute_on(host, "no-such-program", [])
    with pytest.raises(NotAvailable, match="host1: kubeconfig does not exist there"):
        programs.execute_on(host, "sh", [])


# --- here -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Interrupt every wait, as the time limit of a test does; yield the processes that were started before."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(["sleep", "600"], **options))
        return started[-1]

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(wait, "until", interrupt)
    yield started
    for child in started:
        child.kill()
        child.wait()


def test_an_interruption_leaves_no_port_forward(
    children: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "argv_of", lambda *arguments: (["kubectl"], {}))
    with pytest.raises(KeyboardInterrupt):
        Kubectl(SimpleNamespace(name="main")).port_forward("service/web", 80)  # type: ignore[arg-type]
    (child,) = children
    assert child.poll() is not None


def test_an_interruption_leaves_no_tunnel(children: list[subprocess.Popen[bytes]]) -> None:
    connection = SimpleNamespace(ssh=lambda *words: ["ssh", *words])
    ssh: Any = SimpleNamespace(connection=connection, environment=dict)
    host: Any = SimpleNamespace(name="host1", SshDirect=ssh)
    with pytest.raises(KeyboardInterrupt):
        TunnelManager(host).open(80)
    (child,) = children
    assert child.poll() is not None
