"""Properties of a node, from files of the kernel and output of programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node import facts as node_facts


@pytest.mark.parametrize(
    ("has_v2", "has_systemd", "expected"),
    [
        (True, True, {"version": 2, "driver": "systemd"}),
        (True, False, {"version": 2, "driver": "cgroupfs"}),
        (False, True, {"version": 1, "driver": "cgroupfs"}),
    ],
)
def test_the_systemd_driver_needs_systemd_and_cgroup_v2(
    tmp_path: Path, has_v2: bool, has_systemd: bool, expected: dict[str, Any]
) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    if has_v2:
        (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("memory")
    if has_systemd:
        (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert node_facts.cgroup(str(tmp_path)) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("CapEff:\t0\nCapBnd:\t000001ffffffffff\n", True),
        ("CapBnd:\t000001fffeffffff\n", False),
        ("", False),
    ],
)
def test_sys_resource_is_read_from_the_bounding_set(status: str, expected: bool) -> None:
    assert node_facts.capabilities(status)["sys_resource"] is expected


def test_addresses_exclude_loopback_and_pods() -> None:
    links = json.loads(
        """[{"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8, "scope": "host"}]},
        {"ifname": "eth0", "addr_info": [
          {"family": "inet", "local": "10.0.0.10", "prefixlen": 24, "scope": "global"},
          {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"}]},
        {"ifname": "veth1", "addr_info": [
          {"family": "inet", "local": "10.244.0.1", "prefixlen": 32, "scope": "global"}]}]"""
    )
    assert [(a["interface"], a["family"], a["address"]) for a in node_facts.addresses(links)] == [
        ("eth0", "ipv4", "10.0.0.10"),
        ("eth0", "ipv6", "fe80::1"),
    ]


def test_the_capacity_is_what_kubelet_reports(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       24684436 kB\nMemFree:         1 kB\n")
    assert node_facts.capacity(str(tmp_path)) == {"cpus": os.cpu_count(), "memory": 24684436 * 1024}
