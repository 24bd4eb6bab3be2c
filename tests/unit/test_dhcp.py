"""DHCP of an environment: the configuration of dnsmasq, and how its process is identified and stopped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp

SUBNETS = {"ipv4": "10.213.4.0/24", "ipv6": "fd77:0:0:4::/64"}
GATEWAYS = {"ipv4": "10.213.4.1", "ipv6": "fd77:0:0:4::1"}
ADDRESSES = {"ipv4": "10.213.4.10", "ipv6": "fd77:0:0:4::10"}


def plan(*families: str) -> dict[str, Any]:
    return {
        "bridge": "podman3",
        "subnets": {family: SUBNETS[family] for family in families},
        "gateways": {family: GATEWAYS[family] for family in families},
        "nodes": {"master-0": {"mac": "52:54:0a:d5:04:0a", "addresses": {f: ADDRESSES[f] for f in families}}},
    }


@pytest.mark.parametrize(
    ("families", "present", "absent"),
    [
        (
            ["ipv4"],
            [
                "dhcp-range=10.213.4.0,static,255.255.255.0,infinite",
                "dhcp-option=option:router,10.213.4.1",
                "dhcp-host=52:54:0a:d5:04:0a,10.213.4.10,master-0",
            ],
            ["enable-ra", "fd77"],
        ),
        (
            ["ipv6"],
            [
                "dhcp-range=fd77:0:0:4::,static,64,infinite",
                "enable-ra",
                "ra-param=podman3,60,9000",
                "dhcp-host=52:54:0a:d5:04:0a,[fd77:0:0:4::10],master-0",
            ],
            ["10.213", "router,"],
        ),
        (
            ["ipv6", "ipv4"],
            ["dhcp-host=52:54:0a:d5:04:0a,[fd77:0:0:4::10],10.213.4.10,master-0", "enable-ra"],
            [],
        ),
    ],
)
def test_addresses_are_those_of_the_plan(families: list[str], present: list[str], absent: list[str]) -> None:
    text = dhcp.configuration(plan(*families), Path("/s/dhcp"))
    lines = text.splitlines()
    # On its own bridge only, and without DNS.
    for line in ("interface=podman3", "bind-interfaces", "except-interface=lo", "port=0", *present):
        assert line in lines
    assert not [word for word in absent if word in text]


@pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq-base is not installed")
@pytest.mark.parametrize("families", [["ipv4"], ["ipv6"], ["ipv4", "ipv6"]])
def test_dnsmasq_accepts_the_configuration(tmp_path: Path, families: list[str]) -> None:
    config = tmp_path / "dnsmasq.conf"
    config.write_text(dhcp.configuration(plan(*families), tmp_path))
    done = subprocess.run(["dnsmasq", "--test", f"--conf-file={config}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stderr


def process(proc: Path, pid: int, comm: str, *variables: str) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "comm").write_text(f"{comm}\n")
    (folder / "environ").write_bytes(b"\0".join(variable.encode() for variable in variables))


def test_servers_are_identified_by_their_variable(tmp_path: Path) -> None:
    process(tmp_path, 7, "dnsmasq", "A=b", "DEVENV_DHCP=aio 12-abc")
    process(tmp_path, 8, "dnsmasq", "DEVENV_DHCP=aio2 13-abc")
    process(tmp_path, 9, "dnsmasq", "PATH=/")
    process(tmp_path, 10, "bash", "DEVENV_DHCP=aio 12-abc")
    process(tmp_path, 11, "dnsmasq")  # a zombie
    (tmp_path / "12").mkdir()
    assert dhcp.servers("aio", tmp_path) == {7: "12-abc"}
    assert dhcp.servers("other", tmp_path) == {}


@pytest.fixture
def fake_dnsmasq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a program named dnsmasq on PATH that becomes a daemon."""
    programs = tmp_path / "bin"
    programs.mkdir()
    # The comm of a script's process is the script's name.
    script = programs / "dnsmasq"
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, time\n"
        "if os.environ.get('HOME'): sys.exit('the environment was inherited')\n"
        "if 'broken' in sys.argv[1]: sys.exit('dnsmasq: no such device')\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "for number in (0, 1, 2): os.dup2(os.open('/dev/null', os.O_RDWR), number)\n"
        "time.sleep(60)\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin")
    yield tmp_path
    dhcp.stop("test-dhcp")


def test_exactly_one_server_runs_with_the_current_plan(fake_dnsmasq: Path) -> None:
    state = fake_dnsmasq / "state"
    assert dhcp.serve("test-dhcp", state, plan("ipv4"))
    first = dhcp.servers("test-dhcp")
    assert len(first) == 1
    assert not dhcp.serve("test-dhcp", state, plan("ipv4"))
    assert dhcp.servers("test-dhcp") == first
    # Another plan replaces the server and its configuration.
    assert dhcp.serve("test-dhcp", state, plan("ipv4", "ipv6"))
    second = dhcp.servers("test-dhcp")
    assert len(second) == 1
    assert not first.keys() & second.keys()
    assert "enable-ra" in (dhcp.folder_of(state) / "dnsmasq.conf").read_text()
    # Without a state directory.
    shutil.rmtree(state)
    assert dhcp.stop("test-dhcp")
    assert dhcp.servers("test-dhcp") == {}
    assert not dhcp.stop("test-dhcp")


def test_a_server_that_does_not_start_reports_why(fake_dnsmasq: Path) -> None:
    with pytest.raises(DevenvError) as caught:
        dhcp.serve("test-dhcp", fake_dnsmasq / "broken", plan("ipv4"))
    assert caught.value.reason.id == "dhcp_failed"
    assert "no such device" in str(caught.value)


def test_a_missing_program_is_reported_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DevenvError) as caught:
        dhcp.serve("test-dhcp", tmp_path, plan("ipv4"))
    assert caught.value.reason.id == "program_missing"
    assert "dnsmasq-base" in caught.value.advice
