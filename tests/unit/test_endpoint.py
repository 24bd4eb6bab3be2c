"""The files of the role endpoint: a proxy for all masters, one node for all addresses, one redirection."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROLE = Path(__file__).resolve().parents[2] / "roles" / "endpoint"
ADDRESSES = {"ipv4": ["10.0.0.5", "10.0.0.1{}"], "ipv6": ["fd00::5", "fd00::1{}"]}
STACKS = (["ipv4"], ["ipv6"], ["ipv4", "ipv6"], ["ipv6", "ipv4"])


def variables(stack: list[str], masters: int, index: int = 0) -> dict[str, Any]:
    """Return the variables of the templates on ``master-<index>`` of a cluster."""
    names = [f"master-{number}" for number in range(masters)]
    hostvars = {
        name: {"devenv_addresses": [ADDRESSES[family][1].format(number) for family in stack]}
        for number, name in enumerate(names)
    }
    me = names[index]
    return {
        **yaml.safe_load((ROLE / "defaults/main.yml").read_text()),
        "inventory_hostname": me,
        "hostvars": hostvars,
        "devenv_cluster": "main",
        "devenv_addresses": hostvars[me]["devenv_addresses"],
        "endpoint_addresses": [ADDRESSES[family][0] for family in stack],
        "endpoint_control_plane": names,
        "__endpoint_interface": "eth0",
        "__endpoint_priority": 254 - index,
        "__endpoint_peers": [name for name in names if name != me],
    }


def rendered(template: str, given: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["regex_replace"] = lambda text, pattern, new: re.sub(pattern, new, text)
    return environment.get_template(template).render(given)


def blocks(text: str) -> dict[str, str]:
    """Return the top-level blocks of keepalived by their headers."""
    matches = re.findall(r"(?ms)^(\w[^{\n]*) \{\n(.*?)^\}$", text)
    return dict(matches)


@pytest.mark.parametrize("stack", STACKS, ids="-".join)
@pytest.mark.parametrize("masters", [1, 3, 5])
def test_every_master_is_behind_the_proxy(stack: list[str], masters: int) -> None:
    text = rendered("haproxy.cfg.j2", variables(stack, masters))
    servers = re.findall(r"(?m)^  server (\S+) (\S+)$", text)
    assert [name for name, _ in servers] == [f"master-{number}" for number in range(masters)]
    first = ADDRESSES[stack[0]][1]
    shape = "{}:6443" if stack[0] == "ipv4" else "[{}]:6443"
    assert [address for _, address in servers] == [shape.format(first.format(n)) for n in range(masters)]
    unready = re.findall(r"(?m)^  server (\S+)-unready (\S+) no-check backup$", text)
    assert unready == servers
    assert "bind :::8443 v4v6" in text
    assert "bind 127.0.0.1:8404" in text


@pytest.mark.parametrize("stack", STACKS, ids="-".join)
def test_addresses_of_all_families_are_on_one_node(stack: list[str]) -> None:
    seen = []
    for index in range(3):
        text = rendered("keepalived.conf.j2", variables(stack, 3, index))
        assert text.count("{") == text.count("}")
        parts = blocks(text)
        assert [head.split()[1] for head in parts if head.startswith("vrrp_instance")] == stack
        # A shared health check, so that both move together.
        assert ("vrrp_sync_group endpoint" in parts) is (len(stack) == 2)
        assert text.count("track_script") == 1
        for family in stack:
            part = parts[f"vrrp_instance {family}"]
            virtual, node = ADDRESSES[family]
            assert re.search(rf"unicast_src_ip {re.escape(node.format(index))}\n", part)
            peers = re.search(r"unicast_peer \{\n(.*?)\}", part, re.DOTALL)
            assert peers is not None
            assert peers[1].split() == [node.format(other) for other in range(3) if other != index]
            assert f"{virtual}/{'128' if family == 'ipv6' else '32'}" in part
            assert "nopreempt" in part
            seen.append((family, re.findall(r"(?:virtual_router_id|priority) (\d+)", part)))
    # One router id per family, and another priority on each node.
    assert len({ids[0] for _, ids in seen}) == 1
    for family in stack:
        assert len({ids[1] for name, ids in seen if name == family}) == 3


def test_a_single_master_has_no_peers() -> None:
    text = rendered("keepalived.conf.j2", variables(["ipv4"], 1))
    assert "unicast" not in text
    assert "10.0.0.5/32" in text


@pytest.mark.parametrize(
    ("address", "router"), [("10.0.0.5", 5), ("10.0.0.9", 9), ("fd00::9", 9), ("192.0.2.255", 255), ("fd00::ffff", 255)]
)
def test_the_router_id_follows_from_the_address(address: str, router: int) -> None:
    given = {**variables(["ipv6" if ":" in address else "ipv4"], 3), "endpoint_addresses": [address]}
    assert f"virtual_router_id {router}\n" in rendered("keepalived.conf.j2", given)


@pytest.mark.parametrize("stack", STACKS, ids="-".join)
def test_the_port_of_the_virtual_addresses_is_redirected_to_the_proxy(stack: list[str]) -> None:
    text = rendered("redirect.nft.j2", variables(stack, 3))
    rules = re.findall(r"(?m)^    (ip6? daddr .*)$", text)
    expected = {
        "ipv4": "ip daddr 10.0.0.5 tcp dport 6443 dnat ip to 10.0.0.5:8443",
        "ipv6": "ip6 daddr fd00::5 tcp dport 6443 dnat ip6 to [fd00::5]:8443",
    }
    # For traffic from outside and from the node, both before kube-proxy at -100.
    assert rules == [expected[family] for family in stack] * 2
    assert re.findall(r"type nat hook (\w+) priority (-?\d+);", text) == [("prerouting", "-105"), ("output", "-105")]
    # Loading the file again replaces the table.
    assert re.search(r"(?m)^table inet devenv_endpoint\ndelete table inet devenv_endpoint\ntable", text)
