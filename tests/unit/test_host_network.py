"""An environment's network on this host: the bridge's MAC and the nft table."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import Result
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve


@pytest.mark.parametrize(
    ("subnets", "mac"),
    [
        ({"ipv4": "10.213.4.0/24"}, "52:55:0a:d5:04:00"),
        ({"ipv6": "fd77:6465:7600:7::/64"}, "52:55:76:00:00:07"),
        ({"ipv4": "10.213.4.0/24", "ipv6": "fd77::/64"}, "52:55:0a:d5:04:00"),
    ],
)
def test_the_bridges_mac_follows_from_its_subnet(subnets: dict[str, str], mac: str) -> None:
    assert network.bridge_mac({"subnets": subnets}) == mac


def test_the_nft_table_masquerades_each_family_and_nothing_else() -> None:
    table = network.nft_table("devenv-aio", "podman3", {"ipv4": "10.213.0.0/24", "ipv6": "fd77::/64"})
    assert table.startswith("table inet devenv-aio {")
    assert 'ip saddr 10.213.0.0/24 oifname != "podman3" masquerade' in table
    assert 'ip6 saddr fd77::/64 oifname != "podman3" masquerade' in table
    assert table.count("masquerade") == 2


VPN = """[{"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"}, {"dst": "0.0.0.0/1", "dev": "tun0"},
 {"dst": "128.0.0.0/1", "dev": "tun0"}, {"dst": "10.0.0.0/8", "dev": "tun0"}, {"dst": "192.0.2.7", "dev": "eth0"},
 {"type": "local", "dst": "10.213.0.1", "dev": "lo"}, {"dst": "172.16.0.0/12", "nexthops": []}]"""


def test_the_halves_of_a_vpns_default_route_are_not_networks() -> None:
    assert network.parse_routes(VPN) == {
        "10.0.0.0/8": "route of tun0", "192.0.2.7": "route of eth0", "172.16.0.0/12": "route of this host",
    }  # fmt: skip
    assert network.parse_routes("") == {}


@pytest.mark.parametrize(
    ("routes", "overrides", "chosen"),
    [
        ({}, {}, "10.213.0.0/24"),
        ({"10.0.0.0/8": "route of tun0"}, {}, "172.30.0.0/24"),
        ({"10.0.0.0/8": "route of tun0", "172.16.0.0/12": "route of tun0"}, {}, "192.168.208.0/24"),
        # Neither pods nor Services may overlap, and the pool must contain a subnet.
        ({"10.0.0.0/8": "route of tun0"}, {"network.pods.ipv4": "172.16.0.0/12"}, "192.168.208.0/24"),
        ({"10.0.0.0/8": "a", "172.16.0.0/12": "a"}, {"network.node_prefix": 19}, "198.19.0.0/19"),
    ],
)
def test_the_next_free_pool_is_used_if_the_profile_leaves_it_open(
    monkeypatch: pytest.MonkeyPatch, routes: dict[str, str], overrides: dict[str, Any], chosen: str
) -> None:
    monkeypatch.setattr(network, "routes", lambda: dict(routes))
    assert network.choose_subnets(resolve("aio", overrides=overrides), None, []) == {"ipv4": chosen}


def test_no_other_pool_replaces_that_of_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "routes", lambda: {"192.0.2.0/24": "route of tun0"})
    profile = resolve("aio", overrides={"network.node_pools.ipv4": "192.0.2.0/24"})
    with pytest.raises(DevenvError, match=r"no free /24 in 192.0.2.0/24; in use: 192.0.2.0/24 \(route of tun0\)"):
        network.choose_subnets(profile, None, [])


def test_a_full_machine_names_what_uses_each_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        network,
        "routes",
        lambda: {"10.0.0.0/8": "route of tun0", "192.0.0.0/8": "route of tun1", "198.0.0.0/8": "route of tun1"},
    )
    claimed = [network.Network("devenv-x", "x", "/h", "podman9", ["172.30.0.0/16"])]
    with pytest.raises(DevenvError) as caught:
        network.choose_subnets(resolve("aio"), None, claimed)
    for conflict in ("10.0.0.0/8 (route of tun0)", "172.30.0.0/16 (environment x)", "192.0.0.0/8 (route of tun1)"):
        assert conflict in str(caught.value)


def test_a_subnet_of_before_is_kept_next_to_a_vpn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "routes", lambda: network.parse_routes(VPN))
    previous = {"subnets": {"ipv4": "192.168.208.0/24"}}
    assert network.choose_subnets(resolve("aio"), previous, []) == previous["subnets"]


RULES = """{"nftables": [{"metainfo": {"version": "1.0.6"}},
 {"table": {"family": "inet", "name": "devenv-a", "handle": %d}},
 {"chain": {"family": "inet", "table": "guard", "name": "forward", "handle": 1, "type": "filter", "hook": "forward",
  "prio": 0, "policy": "%s"}}]}"""
PLAN = {"bridge": "podman9", "subnets": {"ipv4": "10.213.7.0/24"}, "nodes": {"master-0": {}, "worker-0": {}}}


def test_a_fingerprint_changes_with_the_table_and_with_a_firewall_between_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = RULES % (3, "accept")
    monkeypatch.setattr(network.program, "run", lambda argv, check=True: Result(0, "[]", ""))
    monkeypatch.setattr(network.firewall, "ruleset", lambda: rules)
    monkeypatch.setattr(network.firewall, "sysctl_read", lambda name, root: "1")
    monkeypatch.setattr(network.dhcp, "servers", lambda environment: {})
    before = network.fingerprint("a", PLAN)
    rules = RULES % (4, "accept")
    assert network.fingerprint("a", PLAN) == before
    rules = RULES % (4, "drop")
    assert network.fingerprint("a", PLAN)["firewall"] == "the chain inet guard forward drops ipv4 between nodes"
    assert network.fingerprint("a", {**PLAN, "nodes": {"master-0": {}}})["firewall"] == ""
    rules = rules.replace("devenv-a", "devenv-b")
    assert network.fingerprint("a", PLAN)["nft table"] != before["nft table"]


SUBNETS = {"ipv4": "10.213.0.0/24"}


@pytest.mark.parametrize(
    ("listed", "replaced"),
    [
        (network.nft_table("devenv-aio", "podman3", SUBNETS), False),
        # As another version of nft prints it.
        (network.nft_table("devenv-aio", "podman3", SUBNETS).replace("srcnat", "100").replace("    ", "\t"), False),
        (network.nft_table("devenv-aio", "podman3", {}), True),
        (network.nft_table("devenv-aio", "podman4", SUBNETS), True),
        ("", True),
    ],
)
def test_a_table_with_other_rules_is_replaced(monkeypatch: pytest.MonkeyPatch, listed: str, replaced: bool) -> None:
    inputs: list[str] = []

    def run(argv: list[str], *, check: bool = True, stdin: str = "") -> Result:
        inputs.append(stdin)
        return Result(0 if listed else 1, listed, "")

    monkeypatch.setattr(network.program, "run", run)
    assert network._set_up_table("devenv-aio", "podman3", SUBNETS) is replaced
    assert inputs[1:] == (
        [
            "add table inet devenv-aio\ndelete table inet devenv-aio\n"
            + network.nft_table("devenv-aio", "podman3", SUBNETS)
        ]
        if replaced
        else []
    )
