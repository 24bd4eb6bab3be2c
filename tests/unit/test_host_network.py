"""An environment's network on this host: what is given to nft and the bridge."""

from __future__ import annotations

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network


@pytest.mark.parametrize(
    ("subnets", "mac"),
    [
        ({"ipv4": "10.213.4.0/24"}, "52:55:0a:d5:04:00"),
        ({"ipv6": "fd77:6465:7600:7::/64"}, "52:55:76:00:00:07"),
        ({"ipv4": "10.213.4.0/24", "ipv6": "fd77::/64"}, "52:55:0a:d5:04:00"),
    ],
)
def test_the_bridge_has_a_mac_of_its_subnet(subnets: dict[str, str], mac: str) -> None:
    assert network.bridge_mac({"subnets": subnets}) == mac


def test_the_nft_table_masks_each_family_and_nothing_else() -> None:
    table = network.nft_table("devenv-aio", "podman3", {"ipv4": "10.213.0.0/24", "ipv6": "fd77::/64"})
    assert table.startswith("table inet devenv-aio {")
    assert 'ip saddr 10.213.0.0/24 oifname != "podman3" masquerade' in table
    assert 'ip6 saddr fd77::/64 oifname != "podman3" masquerade' in table
    assert table.count("masquerade") == 2
