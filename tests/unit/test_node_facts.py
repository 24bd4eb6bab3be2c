"""What a node is, from the texts that the kernel and programs give."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node import facts as node_facts

HYBRID = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/systemd cgroup rw 0 0\n"
LEGACY = "cgroup /sys/fs/cgroup/systemd cgroup rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "unified", "expected"),
    [
        ("", True, {"version": 2, "layout": "unified", "driver": "systemd"}),
        (HYBRID, False, {"version": 1, "layout": "hybrid", "driver": "cgroupfs"}),
        (LEGACY, False, {"version": 1, "layout": "legacy", "driver": "cgroupfs"}),
    ],
)
def test_cgroups(mounts: str, unified: bool, expected: dict[str, Any]) -> None:
    assert node_facts.cgroup(mounts, unified) == expected


def test_without_systemd_there_is_no_systemd_driver(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("memory")
    assert node_facts.read_cgroup(str(tmp_path))["driver"] == "cgroupfs"
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert node_facts.read_cgroup(str(tmp_path))["driver"] == "systemd"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("CapEff:\t0\nCapBnd:\t000001ffffffffff\n", True),
        ("CapBnd:\t000001fffeffffff\n", False),
        ("", False),
    ],
)
def test_the_capability_that_matters(status: str, expected: bool) -> None:
    assert node_facts.capabilities(status)["sys_resource"] is expected


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Kubernetes v1.36.3\n", "1.36.3"),
        ("v1.36.3", "1.36.3"),
        ("containerd github.com/containerd/containerd/v2 v2.4.2 abc", "2.4.2"),
        ("runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev\n", "1.1.5+ds1"),
        ("no number", ""),
    ],
)
def test_versions_are_read(text: str, version: str) -> None:
    assert node_facts.parse_version(text) == version


def test_a_program_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "kubelet"
    program.write_text(f"#!/bin/sh\necho x >> {tmp_path}/asked\necho v1.2.3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + ":/usr/bin:/bin")
    programs = {"kubelet": ["kubelet"], "none": ["devenv-no-such-program"]}
    cache = str(tmp_path / "run" / "versions.json")

    def ask(keep: bool) -> dict[str, str]:
        return node_facts.versions(keep, cache, programs)

    assert ask(False) == {"kubelet": "1.2.3", "none": ""}
    assert not os.path.exists(cache)
    assert ask(True) == ask(True) == {"kubelet": "1.2.3", "none": ""}
    assert len((tmp_path / "asked").read_text().split()) == 2
    # Another program in its place is asked again.
    program.write_text("#!/bin/sh\necho v9.9.9\n")
    assert ask(True)["kubelet"] == "9.9.9"


def test_addresses_are_those_of_the_node() -> None:
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


def test_memory_and_disk() -> None:
    assert node_facts.memory("MemTotal:  10 kB\nMemAvailable:  4 kB\n") == {"total": 10240, "available": 4096}
    room = node_facts.disk(["/", "/no/such/folder"])
    assert list(room) == ["/"]
    assert 0 < room["/"]["free"] <= room["/"]["total"]
