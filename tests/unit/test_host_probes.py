"""Probes of this host, and the restoration of its settings."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host import probes as host
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines, names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import machines, preflight


def test_host_settings_are_restored(tmp_path: Path) -> None:
    root, record = tmp_path / "sys", tmp_path / "record.json"
    for name in host.HOST_SYSCTLS:
        path = root / name.replace(".", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0\n")
    host.record_sysctls(record, root)
    (root / "kernel/panic").write_text("10\n")
    # A second environment must not record what the first one's nodes have written.
    host.record_sysctls(record, root)
    assert host.restore_sysctls(record, root) == ["kernel.panic"]
    assert (root / "kernel/panic").read_text() == "0"
    assert not record.exists()
    assert host.restore_sysctls(record, root) == []


def test_settings_are_restored_when_the_body_fails(tmp_path: Path) -> None:
    setting = tmp_path / "net/ipv4/ip_forward"
    setting.parent.mkdir(parents=True)
    setting.write_text("0")

    def fail() -> None:
        with host.unchanged(["net.ipv4.ip_forward", "no.such"], tmp_path):
            setting.write_text("1")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert setting.read_text() == "0"


def test_a_missing_program_is_named_with_its_package() -> None:
    probes = host.program_probes({"podman": "podman", "nft": "nftables"}, {"podman": "/usr/bin/podman"}.get)
    assert [probe.ok for probe in probes] == [True, False]
    with pytest.raises(DevenvError) as caught:
        preflight.require(probes)
    assert caught.value.reason.id == "program_missing"
    assert caught.value.exit_code == 9
    assert "nftables" in caught.value.advice
    assert "podman: /usr" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "ok", "word"),
    [
        ({"all": "0", "default": "0"}, True, "yes"),
        ({"all": "1", "default": "0"}, False, "net.ipv6.conf.all.disable_ipv6=0"),
        ({"all": "0", "default": "1"}, False, "net.ipv6.conf.default.disable_ipv6=0"),
        ({}, False, "boot"),
    ],
)
def test_disabled_ipv6_is_reported_with_its_fix(tmp_path: Path, settings: dict[str, str], ok: bool, word: str) -> None:
    for name, value in settings.items():
        path = tmp_path / "net/ipv6/conf" / name / "disable_ipv6"
        path.parent.mkdir(parents=True)
        path.write_text(value)
    probe = host.ipv6_probe(tmp_path)
    assert probe.ok is ok
    assert word in f"{probe.seen} {probe.fix}"
    if not ok:
        with pytest.raises(DevenvError) as caught:
            preflight.require([probe])
        assert caught.value.reason.id == "ipv6_disabled"
        assert caught.value.exit_code == 9
        preflight.require([host.ipv6_probe(tmp_path, required=False)])


def test_all_failed_probes_are_reported_at_once() -> None:
    probes = [
        host.Probe("memory", False, "1 GiB", "2 GiB", "stop something", "memory_short"),
        host.Probe("disk", False, "1 GiB", "9 GiB", "prune", "disk_short"),
        host.Probe("inotify", False, "1", "2", "sysctl", "kernel_feature_missing", required=False),
    ]
    with pytest.raises(DevenvError) as caught:
        preflight.require(probes)
    assert "memory" in str(caught.value)
    assert "disk" in str(caught.value)
    assert "inotify" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "writable", "inodes", "seen"),
    [
        (0, True, 10, "ok"),
        (os.ST_NOEXEC, True, 10, "mounted with noexec"),
        (os.ST_RDONLY, False, 10, "read-only"),
        (0, False, 10, "not writable"),
        (0, True, 9, "9 inodes free"),
    ],
)
def test_filesystems_that_cannot_hold_nodes_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: int, writable: bool, inodes: int, seen: str
) -> None:
    status = SimpleNamespace(f_flag=flags, f_files=100, f_favail=inodes)
    monkeypatch.setattr(host.os, "statvfs", lambda path: status)
    monkeypatch.setattr(host.os, "access", lambda path, mode: writable)
    probe = host.filesystem_probe(tmp_path / "not" / "there", 10)
    assert (probe.ok, probe.seen, probe.reason) == (seen == "ok", seen, "folder_unusable")


PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15"]


@pytest.mark.parametrize(
    ("routes", "ok", "seen"),
    [({}, True, "10.213.0.0/24"), (dict.fromkeys(PRIVATE, "route of tun0"), False, "10.0.0.0/8 (route of tun0)")],
)
def test_the_doctor_reports_whether_a_subnet_is_free(
    monkeypatch: pytest.MonkeyPatch, routes: dict[str, str], ok: bool, seen: str
) -> None:
    monkeypatch.setattr(preflight.network, "routes", lambda: dict(routes))
    monkeypatch.setattr(preflight.registry, "networks", list)
    monkeypatch.setattr(preflight.firewall, "probes", lambda subnets, several: [])
    (probe,) = preflight.network_probes(resolve("sno"))
    assert (probe.ok, probe.required) == (ok, True)
    assert seen in probe.seen


def test_memory_and_disk_are_compared(tmp_path: Path) -> None:
    good = [host.memory_probe(1), host.disk_probe(1, tmp_path / "not" / "there")]
    assert [probe.ok for probe in good] == [True, True]
    bad = [host.memory_probe(2**60), host.disk_probe(2**60, tmp_path)]
    assert [probe.ok for probe in bad] == [False, False]


@pytest.mark.parametrize(
    ("limit", "needed", "ok"), [("128", 1, True), ("128", 127, False), ("128", 126, True), ("", 1, False)]
)
def test_inotify_instances_of_all_processes_are_counted(tmp_path: Path, limit: str, needed: int, ok: bool) -> None:
    setting = tmp_path / "sys/fs/inotify/max_user_instances"
    setting.parent.mkdir(parents=True)
    setting.write_text(limit)
    for process in ("7", "8", "self"):
        fds = tmp_path / "proc" / process / "fd"
        fds.mkdir(parents=True)
        (fds / "0").symlink_to("/dev/null")
        (fds / "3").symlink_to("anon_inode:inotify")
        (fds / "4").symlink_to("anon_inode:[eventpoll]")
    probe = host.inotify_probe(needed, tmp_path / "sys", tmp_path / "proc")
    assert probe.ok is ok
    assert "max_user_instances" in probe.fix


def test_inotify_instances_of_other_users_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = tmp_path / "sys/fs/inotify/max_user_instances"
    setting.parent.mkdir(parents=True)
    setting.write_text("128")
    (tmp_path / "proc/7/fd").mkdir(parents=True)
    (tmp_path / "proc/7/fd/3").symlink_to("anon_inode:inotify")
    # The kernel counts by user: a desktop's session uses dozens of its own limit.
    monkeypatch.setattr(host.os, "geteuid", lambda: 54321)
    assert host.inotify_probe(128, tmp_path / "sys", tmp_path / "proc").ok


# Of 128, a new Debian with one login uses about a dozen.
@pytest.mark.parametrize("name", [name for name in names.canonical() if not name.startswith("tna")])
def test_every_profile_fits_the_inotify_limit_of_a_new_debian(name: str) -> None:
    assert engines.in_use(resolve(name)["nodes"], "kubeadm")["inotify"] <= 128 - 12


@pytest.mark.parametrize(
    ("cpus", "memory", "ok"), [(0, 0, True), (1, 1 << 30, True), (10_000, 0, False), (0, 3 << 30, False)]
)
def test_a_node_fits_the_host(tmp_path: Path, cpus: int, memory: int, ok: bool) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:        2097152 kB\n")
    probe = host.size_probe("worker-0", cpus, memory, tmp_path)
    assert probe.ok is ok
    assert "worker-0" in probe.name
    assert "nodes.worker-0.memory to at most 2048MiB" in probe.fix


def test_only_a_size_that_somebody_set_can_be_too_large() -> None:
    small = resolve("sno")
    assert list(machines.size_probes(small, small["nodes"])) == []
    large = resolve("sno", overrides={"nodes.master-0.cpus": 512})
    assert [probe.ok for probe in machines.size_probes(large, large["nodes"])] == [False]
    large = resolve("sno", overrides={"nodes.master-0.memory": "900GiB"})
    assert [(probe.ok, probe.needed) for probe in machines.size_probes(large, large["nodes"])] == [(False, "900.0 GiB")]
