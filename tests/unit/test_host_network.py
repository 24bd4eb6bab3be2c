"""An environment's network on this host: the bridge's MAC and the nft table."""

from __future__ import annotations

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import Result
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network


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
