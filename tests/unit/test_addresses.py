"""Addresses: choice of subnets, plan of an environment, pod ranges."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from hypothesis import given
from hypothesis import strategies as st

POOLS = {"ipv4": "10.213.0.0/16", "ipv6": "fd77:6465:7600::/48"}
BOTH = {"ipv4": "10.213.4.0/24", "ipv6": "fd77:6465:7600:4::/64"}


def resolved(*names: str, families: tuple[str, ...] = ("ipv4",)) -> dict[str, Any]:
    nodes = [
        {"name": name, "group": "workers" if name.startswith("worker") else "control_plane", "cluster": "main"}
        for name in names
    ]
    return {"families": list(families), "clusters": {"main": {}}, "nodes": nodes}


@pytest.mark.parametrize(
    ("used", "families", "expected"),
    [
        ([], ["ipv4"], {"ipv4": "10.213.0.0/24"}),
        (["10.213.0.0/24"], ["ipv4"], {"ipv4": "10.213.1.0/24"}),
        (["10.213.0.0/22", "10.213.5.0/24"], ["ipv4"], {"ipv4": "10.213.4.0/24"}),
        (["10.213.0.77/32"], ["ipv4"], {"ipv4": "10.213.1.0/24"}),
        (["10.213.0.1/24"], ["ipv4"], {"ipv4": "10.213.1.0/24"}),
        ([], ["ipv4", "ipv6"], {"ipv4": "10.213.0.0/24", "ipv6": "fd77:6465:7600::/64"}),
        (["fd77:6465:7600::/63"], ["ipv6"], {"ipv6": "fd77:6465:7600:2::/64"}),
        (["fd77:6465:7600::/63"], ["ipv4"], {"ipv4": "10.213.0.0/24"}),
    ],
)
def test_choose_takes_the_first_free_subnet(used: list[str], families: list[str], expected: dict[str, str]) -> None:
    assert addresses.choose(POOLS, dict.fromkeys(used, "a route"), families) == expected


@pytest.mark.parametrize(
    ("pools", "used", "family"),
    [
        (POOLS, ["10.0.0.0/8"], "ipv4"),
        (POOLS, ["10.213.0.0/17", "10.213.128.0/17"], "ipv4"),
        # As many /64 as nobody could try one by one.
        ({"ipv6": "fd00::/16"}, ["fc00::/7"], "ipv6"),
    ],
)
def test_choose_reports_that_nothing_is_free(pools: dict[str, str], used: list[str], family: str) -> None:
    with pytest.raises(DevenvError, match=r"no free /\d+ in") as caught:
        addresses.choose(pools, dict.fromkeys(used, "route of tun0"), [family])
    assert all(f"{network} (route of tun0)" in str(caught.value) for network in used)
    assert caught.value.reason.id == "subnet_none_free"
    assert caught.value.exit_code == 9


def test_a_message_names_the_widest_conflicts_only() -> None:
    used = {f"10.213.{number}.0/24": f"environment e{number}" for number in range(64, 256)}
    used |= {"10.213.0.0/18": "route of tun0"}
    with pytest.raises(DevenvError, match=r"in use: 10\.213\.0\.0/18 \(route of tun0\), .* and 190 more$"):
        addresses.choose(POOLS, used, ["ipv4"])


@pytest.mark.parametrize(
    ("network", "default"),
    [
        ("0.0.0.0/0", True), ("0.0.0.0/1", True), ("128.0.0.0/1", True), ("192.0.0.0/2", True), ("8.0.0.0/7", True),
        ("10.0.0.0/8", False), ("172.16.0.0/12", False),
        ("::/0", True), ("8000::/1", True), ("2000::/3", True), ("fc00::/6", True),
        ("fc00::/7", False), ("fd00::/8", False),
    ],
)  # fmt: skip
def test_routes_wider_than_private_ranges_are_default_routes(network: str, default: bool) -> None:
    assert addresses.is_default_route(ipaddress.ip_network(network)) is default


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(16, 32)), max_size=30))
def test_choice_is_free_and_the_first(used: list[tuple[int, int]]) -> None:
    base = int(ipaddress.IPv4Address("10.213.0.0"))
    taken = [ipaddress.ip_network((base + low, prefix), strict=False) for low, prefix in used]
    free = [
        net
        for net in ipaddress.ip_network("10.213.0.0/16").subnets(new_prefix=24)
        if not any(net.overlaps(other) for other in taken)
    ]
    owners = {str(network): "a route" for network in taken}
    if not free:
        with pytest.raises(DevenvError):
            addresses.choose(POOLS, owners, ["ipv4"])
    else:
        assert addresses.choose(POOLS, owners, ["ipv4"]) == {"ipv4": str(free[0])}


def test_a_plan_has_addresses_of_both_families() -> None:
    network = network_plan.make(resolved("master-0", "worker-0", families=("ipv4", "ipv6")), BOTH)
    assert network == {
        "subnets": BOTH,
        "gateways": {"ipv4": "10.213.4.1", "ipv6": "fd77:6465:7600:4::1"},
        "clusters": {"main": {"index": 0, "virtual": {"ipv4": "10.213.4.5", "ipv6": "fd77:6465:7600:4::5"}}},
        "nodes": {
            "master-0": {
                "index": 0,
                "mac": "52:54:0a:d5:04:0a",
                "addresses": {"ipv4": "10.213.4.10", "ipv6": "fd77:6465:7600:4::10"},
                "group": "control_plane",
                "cluster": "main",
            },
            "worker-0": {
                "index": 1,
                "mac": "52:54:0a:d5:04:0b",
                "addresses": {"ipv4": "10.213.4.11", "ipv6": "fd77:6465:7600:4::11"},
                "group": "workers",
                "cluster": "main",
            },
        },
    }


def test_plan_follows_the_order_of_families() -> None:
    network = network_plan.make(resolved("master-0", families=("ipv6", "ipv4")), BOTH)
    assert list(network["subnets"]) == ["ipv6", "ipv4"]
    assert list(network["nodes"]["master-0"]["addresses"]) == ["ipv6", "ipv4"]


def test_leaving_nodes_stay_until_they_are_forgotten() -> None:
    first = network_plan.make(resolved("master-0", "worker-0", "worker-1"), BOTH)
    desired = resolved("master-0", "worker-1", "worker-2")
    assert network_plan.leaving(desired, first) == ["worker-0"]
    assert network_plan.leaving(desired, None) == []
    after = network_plan.make(desired, BOTH, first)
    assert list(after["nodes"]) == ["master-0", "worker-1", "worker-2", "worker-0"]
    assert after["nodes"]["worker-0"] == first["nodes"]["worker-0"]
    assert after["nodes"]["worker-2"]["index"] == 3, "the index of a leaving node is not free"
    assert network_plan.forget(after, ["worker-0"]) == network_plan.make(
        desired, BOTH, network_plan.forget(after, ["worker-0"])
    )
    assert network_plan.forget(after, ["nobody"]) == after


def test_an_old_network_file_without_groups_is_accepted() -> None:
    first = network_plan.make(resolved("master-0", "worker-0"), BOTH)
    for node in first["nodes"].values():
        del node["group"], node["cluster"]
    leaving = network_plan.make(resolved("master-0"), BOTH, first)["nodes"]["worker-0"]
    assert (leaving["group"], leaving["cluster"], leaving["index"]) == ("", None, 1)


def test_clusters_keep_their_virtual_addresses() -> None:
    desired = resolved("master-0", "master-1")
    desired["clusters"] = {"b": {}, "a": {}}
    desired["nodes"][0]["cluster"], desired["nodes"][1]["cluster"] = "b", "a"
    first = network_plan.make(desired, BOTH)
    assert [(name, cluster["index"], cluster["virtual"]["ipv4"]) for name, cluster in first["clusters"].items()] == [
        ("b", 0, "10.213.4.5"),
        ("a", 1, "10.213.4.6"),
    ]
    desired["clusters"] = {"c": {}, "a": {}}
    desired["nodes"][0]["cluster"] = "c"
    second = network_plan.make(desired, BOTH, first)
    assert {name: cluster["index"] for name, cluster in second["clusters"].items()} == {"c": 2, "a": 1, "b": 0}
    assert list(network_plan.forget(second, [])["clusters"]) == ["c", "a"], "nothing is left of b"


def test_virtual_addresses_are_below_those_of_nodes() -> None:
    last = addresses.virtual("10.213.4.0/24", addresses.LARGEST_CLUSTERS - 1)
    assert ipaddress.ip_address(last) < addresses.address("10.213.4.0/24", 0)
    with pytest.raises(DevenvError, match="the highest is 4"):
        addresses.virtual("10.213.4.0/24", addresses.LARGEST_CLUSTERS)


names = st.integers(0, 12).map(lambda number: f"worker-{number}")


@given(st.lists(st.tuples(st.sets(names, min_size=1), st.booleans()), min_size=1, max_size=8))
def test_nodes_never_share_an_index(steps: list[tuple[set[str], bool]]) -> None:
    network: dict[str, Any] | None = None
    for desired, forgets in steps:
        plan = network_plan.make(resolved(*sorted(desired)), BOTH, network)
        places = [node["index"] for node in plan["nodes"].values()]
        assert len(set(places)) == len(places)
        for name, node in (network or {}).get("nodes", {}).items():
            assert plan["nodes"][name] == node, "an existing node keeps its index"
        leaving = network_plan.leaving(resolved(*sorted(desired)), plan)
        network = network_plan.forget(plan, leaving) if forgets else plan
        assert set(network["nodes"]) >= desired


def test_plan_keeps_indexes_and_fills_the_lowest_gap() -> None:
    first = network_plan.make(resolved("master-0", "worker-0", "worker-1"), BOTH)
    first["bridge"] = "podman3"
    without = network_plan.forget(network_plan.make(resolved("master-0", "worker-1"), BOTH, first), ["worker-0"])
    assert [node["index"] for node in without["nodes"].values()] == [0, 2]
    assert without["nodes"]["worker-1"] == first["nodes"]["worker-1"]
    assert without["bridge"] == "podman3"
    again = network_plan.make(resolved("master-0", "worker-1", "worker-2", "worker-3"), BOTH, without)
    assert {name: node["index"] for name, node in again["nodes"].items()} == {
        "master-0": 0,
        "worker-1": 2,
        "worker-2": 1,
        "worker-3": 3,
    }


def test_plan_of_the_same_input_is_the_same() -> None:
    desired = resolved("master-0", "worker-0", families=("ipv4", "ipv6"))
    first = network_plan.make(desired, BOTH)
    assert network_plan.make(desired, BOTH, first) == first


@pytest.mark.parametrize(
    ("subnet", "index", "expected"),
    [
        ("10.213.4.0/24", 0, "10.213.4.10"),
        ("10.213.4.0/24", 244, "10.213.4.254"),
        ("fd00:1::/64", 0, "fd00:1::10"),
        ("fd00:1::/64", 9, "fd00:1::19"),
        ("fd00:1::/64", 10, "fd00:1::20"),
        ("fd00:1::/64", 244, "fd00:1::254"),
        ("fd00:1::/64", 999, "fd00:1::1009"),
        ("10.213.4.0/22", 1012, "10.213.7.254"),
    ],
)
def test_an_address_follows_from_subnet_and_index(subnet: str, index: int, expected: str) -> None:
    assert str(addresses.address(subnet, index)) == expected


@pytest.mark.parametrize(
    ("subnet", "index", "highest"),
    [
        ("10.213.4.0/24", 245, 244),
        ("10.213.4.0/27", 21, 20),
        ("10.213.4.0/22", 1013, 1012),
        ("fd00:1::/64", 9990, 9989),
    ],
)
def test_address_beyond_the_plan_is_refused(subnet: str, index: int, highest: int) -> None:
    assert addresses.address(subnet, highest) in ipaddress.ip_network(subnet)
    with pytest.raises(DevenvError, match=f"highest is {highest}") as caught:
        addresses.address(subnet, index)
    assert caught.value.reason.id == "nodes_too_many"


@pytest.mark.parametrize("subnets", [{"ipv4": BOTH["ipv4"]}, {"ipv6": BOTH["ipv6"]}, BOTH])
def test_macs_are_local_unicast_and_differ(subnets: dict[str, str]) -> None:
    wide = {"ipv4": "10.213.4.0/22", "ipv6": BOTH["ipv6"]}
    many = {family: wide[family] for family in subnets}
    assert len({addresses.mac(many, index) for index in range(1000)}) == 1000
    macs = [addresses.mac(subnets, index) for index in range(245)]
    assert len(set(macs)) == 245
    for mac in macs:
        first = int(mac[:2], 16)
        assert first & 0b10, "locally administered"
        assert not first & 0b01, "unicast"
    assert macs == [addresses.mac(dict(subnets), index) for index in range(245)]


def test_macs_of_other_subnets_differ() -> None:
    assert addresses.mac({"ipv6": "fd00:1::/64"}, 0) != addresses.mac({"ipv6": "fd00:2::/64"}, 0)


@pytest.mark.parametrize(
    ("pool", "index", "expected"),
    [
        ("10.244.0.0/16", 0, "10.244.0.0/24"),
        ("10.244.0.0/16", 255, "10.244.255.0/24"),
        ("10.244.0.0/24", 0, "10.244.0.0/24"),
        ("fd01::/56", 3, "fd01:0:0:3::/64"),
        ("fd01::/48", 0x1234, "fd01:0:0:1234::/64"),
    ],
)
def test_pod_cidr_follows_from_pool_and_index(pool: str, index: int, expected: str) -> None:
    assert addresses.pod_cidr(pool, index) == expected


@pytest.mark.parametrize(("pool", "index"), [("10.244.0.0/16", 256), ("10.244.0.0/24", 1), ("fd01::/56", 256)])
def test_pod_cidr_beyond_the_pool_is_refused(pool: str, index: int) -> None:
    with pytest.raises(DevenvError) as caught:
        addresses.pod_cidr(pool, index)
    assert caught.value.reason.id == "nodes_too_many"


@given(st.integers(8, 24), st.data())
def test_pod_ranges_lie_in_the_pool_and_apart(prefix: int, data: st.DataObject) -> None:
    pool = ipaddress.IPv4Network(("10.0.0.0", prefix))
    last = 2 ** (24 - prefix) - 1
    indexes = data.draw(st.integers(0, last)), data.draw(st.integers(0, last))
    first, second = (ipaddress.IPv4Network(addresses.pod_cidr(str(pool), index)) for index in indexes)
    assert first.subnet_of(pool)
    assert (indexes[0] == indexes[1]) == first.overlaps(second)


def moved_network() -> dict[str, Any]:
    subnets = {"ipv4": "10.213.9.0/24", "ipv6": "fd77:6465:7600:9::/64"}
    return network_plan.make(resolve("aio-dualstack-static"), subnets)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["10.213.9.11", "fd77:6465:7600:9::11"]),
        ("10.213.9.77", ["10.213.9.77", "fd77:6465:7600:9::77"]),
        ("fd77:6465:7600:9::77", ["10.213.9.77", "fd77:6465:7600:9::77"]),
        ("10.213.9.10", ["10.213.9.10", "fd77:6465:7600:9::10"]),
    ],
)
def test_a_moved_node_keeps_everything_but_its_address(text: str, expected: list[str]) -> None:
    before = moved_network()
    after = network_plan.move(before, "master-0", text)
    node = after["nodes"]["master-0"]
    assert list(node["addresses"].values()) == expected
    assert (node["index"], node["mac"]) == (0, before["nodes"]["master-0"]["mac"])
    # The next claim keeps the address, and a new node gets a free one.
    more = resolve("aio-dualstack-static", overrides={"nodes.worker-0": {}})
    planned = network_plan.make(more, after["subnets"], after)["nodes"]
    assert planned["master-0"] == node
    assert not set(planned["worker-0"]["addresses"].values()) & set(expected)


@pytest.mark.parametrize(
    "text",
    ["10.213.9.5", "10.213.9.1", "10.213.8.20", "fd77:6465:7600:9::a", "fd77:6465:7600:9::5", "x", "10.213.9.255"],
)
def test_invalid_addresses_for_a_node_are_refused(text: str) -> None:
    with pytest.raises(DevenvError) as raised:
        network_plan.move(moved_network(), "master-0", text)
    assert raised.value.reason.id in ("address_refused", "nodes_too_many")


def test_an_address_of_another_node_is_refused() -> None:
    network = network_plan.make(resolve("master-2pipe"), {"ipv4": "10.213.9.0/24"})
    with pytest.raises(DevenvError, match="worker-1"):
        network_plan.move(network, "master-0", "10.213.9.12")
