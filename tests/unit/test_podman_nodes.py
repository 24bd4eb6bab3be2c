"""The podman provider's pure parts: what it reads from podman and what it gives to it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import claims
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import nodes as podman_nodes

NODE = NodeSpec(
    name="master-0",
    group="control_plane",
    cpus=2,
    memory=2**31,
    mac="52:54:0a:d5:00:0a",
    addresses=("10.213.0.10", "fd77::10"),
    prefixes=(24, 64),
    gateways=("10.213.0.1", "fd77::1"),
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
    claims.refuse_others(found, "aio", "/h")
    with pytest.raises(DevenvError) as caught:
        claims.refuse_others(found, "aio", "/other")
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
        (False, {"fd77::10": 64}, ["--env=DEVENV_FAMILIES=ipv6", "--env=DEVENV_ADDRESSES=fd77::10/64"], "DEVENV_DHCP"),
        (True, {"10.213.0.10": 24}, ["--env=DEVENV_FAMILIES=ipv4", "--env=DEVENV_DHCP=ipv4"], "DEVENV_ADDRESSES"),
        (True, {"fd77::10": 64, "10.213.0.10": 24}, ["--env=DEVENV_DHCP=ipv6 ipv4"], "DEVENV_GATEWAYS"),
    ],
)
def test_a_node_is_told_its_addresses_or_to_ask_for_them(
    dhcp: bool, addresses: dict[str, int], there: list[str], absent: str
) -> None:
    node = dataclasses.replace(NODE, addresses=tuple(addresses), prefixes=tuple(addresses.values()), dhcp=dhcp)
    arguments = podman_nodes.run_arguments("aio", "/h", Path("/s"), node, "image:1")
    assert set(there) <= set(arguments)
    assert absent not in " ".join(arguments)
