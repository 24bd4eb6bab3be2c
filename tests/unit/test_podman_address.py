"""Another address for a node: what is refused, and what is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
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
def test_whose_address_can_change(name: str, node: str, reason: str) -> None:
    resolved = resolve(name)
    if not reason:
        members.check_move(resolved, node)
        return
    with pytest.raises(DevenvError) as raised:
        members.check_move(resolved, node)
    assert raised.value.reason.id == reason


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "environments" / "lab"
    made.mkdir(parents=True)
    resolved = resolve("aio")
    network = network_plan.make(resolved, {"ipv4": "10.213.9.0/24"})
    state.write_profile(made, resolved)
    state.write_network(made, network)
    ssh_keys.ensure_hosts(made, network["nodes"])
    found = podman.Container("lab-master-0", "lab", "master-0", "", "running", 4711)
    monkeypatch.setattr(podman, "containers", lambda environment=None: [found])
    return made


def test_it_is_written_down_before_the_node_gets_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def ip(pid: int, *words: str, json_output: bool = False) -> str:
        asked.append((pid, *words))
        rows = [{"local": a, "prefixlen": 24, "scope": "global"} for a in ("10.213.9.10", "10.213.9.77")]
        rows.append({"local": "fe80::1", "prefixlen": 64, "scope": "link"})
        return str([{"addr_info": rows}]).replace("'", '"') if json_output else ""

    monkeypatch.setattr(podman_address, "_ip", ip)
    monkeypatch.setattr(podman_address.program, "run", lambda argv, **more: asked.append((argv[-1],)))
    for _ in range(2):
        assert podman_address.begin(folder, "lab", "master-0", "10.213.9.77") == ["10.213.9.77/24"]
    assert (folder / "ssh/hosts/master-0/addresses").read_text() == "10.213.9.77/24\n"
    assert (state.read_network(folder) or {})["nodes"]["master-0"]["addresses"] == {"ipv4": "10.213.9.77"}
    known = (folder / "ssh/known_hosts").read_text()
    assert known.startswith("master-0,10.213.9.77")
    assert podman_address.end(folder, "lab", "master-0") == ["10.213.9.10/24"]
    assert (4711, "address", "delete", "10.213.9.10/24") in asked
    assert asked[-1] == (4711, "route", "replace", "default", "via", "10.213.9.1")
    assert "10.213.9.77" in (folder / "inventory.yml").read_text()
    assert "10.213.9.10" not in (folder / "ssh/known_hosts").read_text()


def test_a_node_that_does_not_run_keeps_its_address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman, "containers", lambda environment=None: [])
    with pytest.raises(DevenvError, match="does not run"):
        podman_address.begin(folder, "lab", "master-0", "")
    assert (state.read_network(folder) or {})["nodes"]["master-0"]["addresses"] == {"ipv4": "10.213.9.10"}
