"""The podman provider's pure parts: what it reads from podman, what it gives to podman, nft and the bridge."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host import probes as host
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import preflight
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import image as node_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import nodes as podman_nodes

NODE = podman_nodes.Node(
    name="master-0",
    cpus=2,
    memory=2**31,
    mac="52:54:0a:d5:00:0a",
    addresses=["10.213.0.10/24", "fd77::10/64"],
    gateways=["10.213.0.1", "fd77::1"],
)

ROW = {
    "Names": ["aio-master-0"],
    "Labels": {"devenv.environment": "aio", "devenv.node": "master-0", "devenv.home": "/h"},
    "State": "running",
    "Image": "localhost/devenv-node:1",
    "Pid": 7,
}


def test_containers_are_read_in_the_order_of_their_names() -> None:
    other = {**ROW, "Names": ["aio-a"], "State": "exited"}
    found = podman.parse_containers(json.dumps([ROW, other]))
    assert [(c.name, c.state, c.node, c.home) for c in found] == [
        ("aio-a", "exited", "master-0", "/h"),
        ("aio-master-0", "running", "master-0", "/h"),
    ]


@pytest.mark.parametrize("text", ["", "[]", "null"])
def test_nothing_is_there(text: str) -> None:
    assert podman.parse_containers(text) == []
    assert podman.parse_networks(text) == []


def test_a_network_says_its_bridge_and_subnets() -> None:
    row = {
        "name": "devenv-aio",
        "network_interface": "podman3",
        "labels": {"devenv.environment": "aio", "devenv.home": "/h", "devenv.subnets": "10.213.0.0/24 fd77::/64"},
    }
    (found,) = podman.parse_networks(json.dumps([row]))
    assert (found.bridge, found.subnets) == ("podman3", ["10.213.0.0/24", "fd77::/64"])


def test_a_name_of_another_home_is_refused() -> None:
    found = podman.parse_containers(json.dumps([ROW]))
    podman_nodes.owner_conflict(found, "aio", "/h")
    with pytest.raises(DevenvError) as caught:
        podman_nodes.owner_conflict(found, "aio", "/other")
    assert caught.value.reason.id == "name_taken"
    assert "DEVENV_HOME=/h" in caught.value.advice


def test_run_arguments_hold_no_secret_and_all_labels() -> None:
    arguments = podman_nodes.run_arguments("aio", "/h", Path("/s"), NODE, "image:1")
    text = " ".join(arguments)
    assert arguments[-2:] == ["image:1", "/usr/local/sbin/node-init"]
    assert "--label=devenv.environment=aio" in arguments
    assert "--env=DEVENV_ADDRESSES=10.213.0.10/24 fd77::10/64" in arguments
    assert "--volume=/s/nodes/master-0/etcd:/var/lib/etcd" in arguments
    assert "PRIVATE KEY" not in text


@pytest.mark.parametrize(
    ("dhcp", "addresses", "there", "absent"),
    [
        (False, ["fd77::10/64"], ["--env=DEVENV_FAMILIES=ipv6", "--env=DEVENV_ADDRESSES=fd77::10/64"], "DEVENV_DHCP"),
        (True, ["10.213.0.10/24"], ["--env=DEVENV_FAMILIES=ipv4", "--env=DEVENV_DHCP=ipv4"], "DEVENV_ADDRESSES"),
        (True, ["fd77::10/64", "10.213.0.10/24"], ["--env=DEVENV_DHCP=ipv6 ipv4"], "DEVENV_GATEWAYS"),
    ],
)
def test_a_node_is_told_its_addresses_or_to_ask_for_them(
    dhcp: bool, addresses: list[str], there: list[str], absent: str
) -> None:
    node = dataclasses.replace(NODE, addresses=addresses, dhcp=dhcp)
    arguments = podman_nodes.run_arguments("aio", "/h", Path("/s"), node, "image:1")
    assert set(there) <= set(arguments)
    assert absent not in " ".join(arguments)


@pytest.mark.parametrize(
    ("subnets", "mac"),
    [
        ({"ipv4": "10.213.4.0/24"}, "52:55:0a:d5:04:00"),
        ({"ipv6": "fd77:6465:7600:7::/64"}, "52:55:76:00:00:07"),
        ({"ipv4": "10.213.4.0/24", "ipv6": "fd77::/64"}, "52:55:0a:d5:04:00"),
    ],
)
def test_the_bridge_has_a_mac_of_its_subnet(subnets: dict[str, str], mac: str) -> None:
    assert podman_nodes.bridge_mac({"subnets": subnets}) == mac


def test_the_nft_table_masks_each_family_and_nothing_else() -> None:
    table = podman_nodes.nft_table("devenv-aio", "podman3", {"ipv4": "10.213.0.0/24", "ipv6": "fd77::/64"})
    assert table.startswith("table inet devenv-aio {")
    assert 'ip saddr 10.213.0.0/24 oifname != "podman3" masquerade' in table
    assert 'ip6 saddr fd77::/64 oifname != "podman3" masquerade' in table
    assert table.count("masquerade") == 2


def test_host_settings_are_put_back(tmp_path: Path) -> None:
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


def test_settings_are_put_back_when_the_body_fails_too(tmp_path: Path) -> None:
    setting = tmp_path / "net/ipv4/ip_forward"
    setting.parent.mkdir(parents=True)
    setting.write_text("0")

    def fail() -> None:
        with host.kept(["net.ipv4.ip_forward", "no.such"], tmp_path):
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
def test_ipv6_that_is_switched_off_is_named(tmp_path: Path, settings: dict[str, str], ok: bool, word: str) -> None:
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


def test_everything_missing_is_said_at_once() -> None:
    probes = [
        host.Probe("memory", False, "1 GiB", "2 GiB", "close something", "memory_short"),
        host.Probe("disk", False, "1 GiB", "9 GiB", "prune", "disk_short"),
        host.Probe("inotify", False, "1", "2", "sysctl", "kernel_feature_missing", required=False),
    ]
    with pytest.raises(DevenvError) as caught:
        preflight.require(probes)
    assert "memory" in str(caught.value)
    assert "disk" in str(caught.value)
    assert "inotify" not in str(caught.value)


def test_memory_and_disk_are_compared(tmp_path: Path) -> None:
    good = [host.memory_probe(1), host.disk_probe(1, tmp_path / "not" / "there")]
    assert [probe.ok for probe in good] == [True, True]
    bad = [host.memory_probe(2**60), host.disk_probe(2**60, tmp_path)]
    assert [probe.ok for probe in bad] == [False, False]


def _recipe(tmp_path: Path, **changes: Any) -> node_image.Recipe:
    script = tmp_path / "init"
    script.write_text(changes.pop("content", "a"))
    base: dict[str, Any] = {
        "suite": "bookworm",
        "mirror": "",
        "packages": ["a", "b"],
        "masked": ["x"],
        "files": {"/init": script},
    }
    return node_image.Recipe(**{**base, **changes})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"packages": ["b", "a"]}, True),
        ({"mirror": "elsewhere"}, True),
        ({"packages": ["a"]}, False),
        ({"masked": []}, False),
        ({"suite": "trixie"}, False),
        ({"content": "b"}, False),
    ],
)
def test_the_image_is_named_by_what_goes_into_it(tmp_path: Path, changes: dict[str, Any], same: bool) -> None:
    before = node_image.image_reference(_recipe(tmp_path), "d" * 64)
    after = node_image.image_reference(_recipe(tmp_path, **changes), "d" * 64)
    assert (before == after) is same
    assert node_image.image_reference(_recipe(tmp_path, **changes), "e" * 64) != after


def test_a_node_gets_links_and_its_own_databases(tmp_path: Path) -> None:
    store, target = tmp_path / "store", tmp_path / "node"
    for name in (*node_image.WRITTEN_IN_PLACE, "blob"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text("data")
    assert node_image.copy_store(store, target)
    assert (target / "blob").stat().st_ino == (store / "blob").stat().st_ino
    for name in node_image.WRITTEN_IN_PLACE:
        assert (target / name).stat().st_ino != (store / name).stat().st_ino
        assert (target / name).read_text() == "data"


@pytest.mark.parametrize(
    ("limit", "needed", "ok"), [("128", 1, True), ("128", 127, False), ("128", 126, True), ("", 1, False)]
)
def test_inotify_instances_are_counted_over_all_processes(tmp_path: Path, limit: str, needed: int, ok: bool) -> None:
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
