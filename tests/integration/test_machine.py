"""The snapshot of the machine must see what an environment could leave behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import machine

pytestmark = [pytest.mark.cluster, pytest.mark.alone]
LINK = "dvtest0"


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_nothing_done_is_no_difference() -> None:
    ignore = {"processes": ".", "containers": ".", "cgroups": "."}
    assert machine.difference(machine.snapshot(), machine.snapshot(), ignore=ignore) == {}


def test_every_kind_of_thing_is_seen(stack: ExitStack, tmp_path: Path) -> None:
    before = machine.snapshot(tmp_path)
    run("ip", "link", "add", LINK, "type", "bridge")
    stack.callback(run, "ip", "link", "delete", LINK)
    run("ip", "address", "add", "192.0.2.1/24", "dev", LINK)
    run("ip", "link", "set", LINK, "up")
    run("nft", "add", "table", "inet", "dvtest")
    stack.callback(run, "nft", "delete", "table", "inet", "dvtest")
    run("iptables", "-N", "DVTEST")
    stack.callback(run, "iptables", "-X", "DVTEST")
    run("podman", "network", "create", "--ipam-driver=none", "dvtest")
    stack.callback(run, "podman", "network", "rm", "dvtest")
    run("podman", "volume", "create", "dvtest")
    stack.callback(run, "podman", "volume", "rm", "dvtest")
    child = subprocess.Popen(["sleep", "61"])
    stack.callback(child.wait)
    stack.callback(child.kill)
    setting = Path("/proc/sys/kernel/panic")
    stack.callback(setting.write_text, setting.read_text())
    setting.write_text(str(int(setting.read_text()) + 7))
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").touch()

    seen = machine.difference(before, machine.snapshot(tmp_path))
    assert any(row.startswith(LINK) for row in seen["links"]["added"])
    assert f"{LINK} 192.0.2.1/24: global" in seen["addresses"]["added"]
    assert any("192.0.2.0/24" in row for row in seen["routes"]["added"])
    assert any(row.startswith("inet dvtest") for row in seen["nft"]["added"])
    assert any("DVTEST" in row for row in seen["iptables"]["added"])
    assert any(row.startswith("dvtest: ") for row in seen["networks"]["added"])
    assert any(row.startswith("dvtest: ") for row in seen["volumes"]["added"])
    assert any("sleep 61" in row for row in seen["processes"]["added"])
    assert any(row.startswith("kernel/panic: ") for row in seen["sysctls"]["changed"])
    assert any(row.startswith(f"{tmp_path}/.kube/config") for row in seen["files"]["added"])

    stack.close()
    ignore = {
        "processes": "^(?!.*sleep 61)", "nft": "^(?!inet dvtest)", "iptables": "^(?!.*DVTEST)", "containers": ".",
        "cgroups": ".", "files": f"^(?!{tmp_path})|{tmp_path}", "links": f"^(?!{LINK})", "addresses": f"^(?!{LINK})",
        "routes": f"^(?!.*{LINK})", "sysctls": "^(?!kernel/panic:)", "networks": "^(?!dvtest)", "mounts": ".",
    }  # fmt: skip
    assert machine.difference(before, machine.snapshot(tmp_path), ignore=ignore) == {}
