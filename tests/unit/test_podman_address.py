"""Another address for a node: refusals, and the order of recording and changing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import Result
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, network_plan, ssh_keys, state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import address as podman_address
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman


@pytest.mark.parametrize(
    ("name", "node", "reason"),
    [
        ("aio", "master-0", ""),
        ("aio", "master-1", "node_unknown"),
        ("master-2pipe", "master-0", "address_many_nodes"),
        ("aio-ipv4-dhcp", "master-0", "address_refused"),
    ],
)
def test_only_a_cluster_of_one_static_node_can_change_its_address(name: str, node: str, reason: str) -> None:
    resolved = resolve(name)
    if not reason:
        members.check_move(resolved, node)
        return
    with pytest.raises(DevenvError) as raised:
        members.check_move(resolved, node)
    assert raised.value.reason.id == reason


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "environments" / "lab"
    folder.mkdir(parents=True)
    resolved = resolve("aio")
    network = network_plan.make(resolved, {"ipv4": "10.213.9.0/24"})
    state.write_profile(folder, resolved)
    state.write_network(folder, network)
    ssh_keys.ensure_hosts(folder, network["nodes"])
    container = podman.Container("lab-master-0", "lab", "master-0", "", "running", 4711)
    monkeypatch.setattr(podman, "containers", lambda environment=None: [container])
    return folder


def test_the_address_is_recorded_before_the_node_gets_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    def run(argv: Sequence[str], **_: Any) -> Result:
        assert list(argv[:2]) == ["nsenter", "--net=/proc/4711/ns/net"]
        commands.append(" ".join(argv[2:]))
        rows = [{"local": a, "prefixlen": 24, "scope": "global"} for a in ("10.213.9.10", "10.213.9.77")]
        rows.append({"local": "fe80::1", "prefixlen": 64, "scope": "link"})
        return Result(0, json.dumps([{"addr_info": rows}]) if "-json" in argv else "", "")

    monkeypatch.setattr(podman_address.program, "run", run)
    for _ in range(2):
        assert podman_address.begin(folder, "lab", "master-0", "10.213.9.77") == ["10.213.9.77/24"]
    assert (folder / "ssh/hosts/master-0/addresses").read_text() == "10.213.9.77/24\n"
    assert (state.read_network(folder) or {})["nodes"]["master-0"]["addresses"] == {"ipv4": "10.213.9.77"}
    known = (folder / "ssh/known_hosts").read_text()
    assert known.startswith("master-0,10.213.9.77")
    assert podman_address.end(folder, "lab", "master-0") == ["10.213.9.10/24"]
    assert "ip address delete 10.213.9.10/24 dev eth0" in commands
    assert commands[-1] == "ip route replace default via 10.213.9.1 dev eth0"
    assert "10.213.9.77" in (folder / "inventory.yml").read_text()
    assert "10.213.9.10" not in (folder / "ssh/known_hosts").read_text()


def test_a_node_that_does_not_run_keeps_its_address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman, "containers", lambda environment=None: [])
    with pytest.raises(DevenvError, match="does not run"):
        podman_address.begin(folder, "lab", "master-0", "")
    assert (state.read_network(folder) or {})["nodes"]["master-0"]["addresses"] == {"ipv4": "10.213.9.10"}
