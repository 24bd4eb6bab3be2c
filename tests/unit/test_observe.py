"""The observed state of a node: files, sysctls and units."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node import observe

SHOWN = """Id=containerd.service
ActiveState=active
UnitFileState=enabled
LoadState=loaded
NeedDaemonReload=no
InactiveExitTimestampMonotonic=5000000
StateChangeTimestampMonotonic=7000000

Id=kubelet.service
ActiveState=inactive
UnitFileState=
LoadState=not-found
NeedDaemonReload=no
InactiveExitTimestampMonotonic=0
StateChangeTimestampMonotonic=0
"""


def test_the_start_of_a_unit_is_wall_time() -> None:
    assert observe.parse_units(SHOWN, monotonic=15.0, wall=1000.0) == {
        "containerd.service": {
            "active": "active",
            "enabled": "enabled",
            "found": True,
            "reload": False,
            "since": 990.0,
            "changed": 992.0,
        },
        "kubelet.service": {
            "active": "inactive",
            "enabled": "",
            "found": False,
            "reload": False,
            "since": 0.0,
            "changed": 0.0,
        },
    }


def test_the_state_of_a_file_has_content_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "a"
    path.parent.mkdir()
    path.write_text("x")
    path.chmod(0o640)
    state = observe.file_state("/etc/a", str(tmp_path))
    assert state is not None
    assert (state["sha256"], state["mode"]) == (hashlib.sha256(b"x").hexdigest(), "0640")
    assert state["mtime"] == os.stat(path).st_mtime


def test_a_link_exists_but_has_no_digest(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    state = observe.file_state("/link", str(tmp_path))
    assert state is not None
    assert state["sha256"] == ""


def test_an_absent_file_or_sysctl_is_none(tmp_path: Path) -> None:
    assert observe.file_state("/none", str(tmp_path)) is None
    assert observe.sysctl_value("net.none", str(tmp_path)) is None


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
    ],
)
def test_a_sysctl_has_a_path(name: str, path: str) -> None:
    assert observe.sysctl_path(name) == path


def test_blanks_of_a_sysctl_are_normalised(tmp_path: Path) -> None:
    path = tmp_path / "proc/sys/net/ipv4/tcp_rmem"
    path.parent.mkdir(parents=True)
    path.write_text("4096\t131072\t6291456\n")
    assert observe.sysctl_value("net.ipv4.tcp_rmem", str(tmp_path)) == "4096 131072 6291456"


@pytest.mark.parametrize("text", ["", "not json", "[1]", '{"parts": 3}'])
def test_a_damaged_record_is_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / observe.MANAGED.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert observe.managed(str(tmp_path)) == {}


def test_every_name_is_observed(tmp_path: Path) -> None:
    state = observe.observe(
        {"a": {"files": ["/x"], "watch": ["/y"]}, "b": {"checks": {"u.service": ["false"]}}}, str(tmp_path)
    )
    assert state["files"] == {"/x": None, "/y": None}
    assert state["checks"] == {"u.service": False}
