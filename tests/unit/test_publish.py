"""Ports of this host that lead to the API: from the profile to rules of nft."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, network_plan
from ansible_collections.devenv.lab.plugins.plugin_utils.host import publish
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend, changes
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

SUBNETS = {"ipv4": "10.213.4.0/24", "ipv6": "fd77:6465:7600:4::/64"}
PORT = {"clusters.main.endpoint.published_port": 16443}
NAMES = {"clusters.main.endpoint.names": ["api.example.com", "192.0.2.7"]}


def test_a_port_leads_to_the_first_control_plane_node_or_the_virtual_address() -> None:
    single = resolve("master-2pipe", overrides=PORT)
    assert publish.ports(single, network_plan.make(single, {"ipv4": SUBNETS["ipv4"]})) == {
        16443: {"ipv4": "10.213.4.10"}
    }
    several = resolve("ha-dualstack-static", overrides=PORT)
    assert publish.ports(several, network_plan.make(several, SUBNETS)) == {
        16443: {"ipv4": "10.213.4.5", "ipv6": "fd77:6465:7600:4::5"}
    }
    assert publish.ports(resolve("aio"), network_plan.make(resolve("aio"), {"ipv4": SUBNETS["ipv4"]})) == {}


def test_other_machines_and_this_host_are_redirected_and_nodes_are_not() -> None:
    table = publish.table("lab", "podman3", {16443: {"ipv4": "10.213.4.10", "ipv6": "fd77::10"}})
    rules = [line.strip() for line in table.splitlines() if "dnat" in line]
    assert rules == [
        'iifname != "podman3" meta nfproto ipv4 fib daddr type local tcp dport 16443 dnat ip to 10.213.4.10:6443',
        'iifname != "podman3" meta nfproto ipv6 fib daddr type local tcp dport 16443 dnat ip6 to [fd77::10]:6443',
        "ip daddr != 127.0.0.0/8 fib daddr type local tcp dport 16443 dnat ip to 10.213.4.10:6443",
        "ip6 daddr != ::1 fib daddr type local tcp dport 16443 dnat ip6 to [fd77::10]:6443",
    ]


class Nft:
    """Keeps tables as nft does."""

    def __init__(self) -> None:
        self.tables: dict[str, str] = {}
        self.changes = 0

    def run(self, argv: list[str], stdin: str = "", **_options: Any) -> program.Result:
        if argv[1:3] == ["--file", "-"]:
            self.changes += 1
            name = stdin.split()[3]
            text = stdin.partition(f"delete table inet {name}\n")[2]
            self.tables.pop(name, None)
            if text:
                self.tables[name] = text
            return program.Result(0, "", "")
        if argv[1:] == ["list", "tables"]:
            return program.Result(0, "".join(f"table inet {name}\n" for name in self.tables), "")
        name = argv[4]
        return program.Result(0 if name in self.tables else 1, self.tables.get(name, ""), "")


@pytest.fixture
def nft(monkeypatch: pytest.MonkeyPatch) -> Nft:
    nft = Nft()
    monkeypatch.setattr(publish.program, "run", nft.run)
    return nft


def test_the_table_is_only_replaced_if_it_differs_and_removed_in_the_end(nft: Nft, tmp_path: Path) -> None:
    assert publish.set_up("lab", tmp_path, "podman3", {}) is False
    assert publish.fingerprint("lab", tmp_path) == {}
    published = {16443: {"ipv4": "10.213.4.10"}}
    assert publish.set_up("lab", tmp_path, "podman3", published) is True
    assert publish.set_up("lab", tmp_path, "podman3", published) is False
    assert "16443" in publish.fingerprint("lab", tmp_path)["published ports"]
    assert publish.set_up("lab", tmp_path, "podman3", {16444: {"ipv4": "10.213.4.10"}}) is True
    assert publish.others("other") == {16444: "lab"}
    assert publish.set_up("lab", tmp_path, "podman3", {}) is True
    assert nft.tables == {}
    publish.set_up("lab", tmp_path, "podman3", published)
    publish.remove("lab")
    assert nft.tables == {}
    changes_before = nft.changes
    publish.remove("lab")
    assert nft.changes == changes_before


def test_a_port_in_use_is_refused(nft: Nft) -> None:
    assert list(publish.probes("lab", resolve("aio"))) == []
    nft.tables["devenv_api_other"] = publish.table("other", "podman4", {16443: {"ipv4": "10.213.5.10"}})
    probe = next(iter(publish.probes("lab", resolve("aio", overrides=PORT))))
    assert (probe.ok, probe.seen, probe.reason) == (False, "used by environment other", "port_taken")
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        probe = next(iter(publish.probes("lab", resolve("aio", overrides={next(iter(PORT)): port}))))
    assert (probe.ok, probe.seen) == (False, "used by a program of this host")


def test_names_are_certified_and_a_change_of_them_is_refused() -> None:
    named = resolve("aio", overrides=NAMES)
    hosts = inventory.build(named, network_plan.make(named, {"ipv4": SUBNETS["ipv4"]}), "/state/lab")["hosts"]
    assert hosts["master-0"]["devenv_endpoint_names"] == ["api.example.com", "192.0.2.7"]
    assert amend.amend(named, {}) == named
    (change,) = changes.between(resolve("aio"), named)
    assert (change.applies, change.why) == (False, "certificates do not name these addresses: down, then up")
    (change,) = changes.between(resolve("aio"), resolve("aio", overrides=PORT))
    assert (change.applies, change.why) == (True, "the port is published")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"clusters.main.endpoint": {"kind": "external", "addresses": ["192.0.2.9"], "published_port": 16443}},
            "clusters.main.endpoint.published_port: kind external has a load balancer",
        ),
        (
            {"clusters.b.endpoint.published_port": 16443, "nodes.master-1.cluster": "b", **PORT},
            "clusters.b.endpoint.published_port: 16443 is also that of cluster main",
        ),
    ],
)
def test_a_port_that_cannot_be_published_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(DevenvError) as caught:
        resolve("sno", overrides=overrides)
    assert caught.value.message.startswith(message)
