"""Another address for a running node: the new one is added next to the old one, which is removed at the end.

A container's environment cannot change, so the addresses are in a file of the state directory, which the node's first
process (roles/node_image/files/node-init) prefers at each start.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, network_plan, ssh_keys, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import RUNNING
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli

FILE = "addresses"
# Otherwise the kernel removes the other addresses with the first of the subnet, and the default route with it.
PROMOTE = ("sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1")


def begin(folder: Path, environment: str, name: str, desired: str) -> list[str]:
    """Choose the node's new addresses (``desired`` and the matching one of the other family; empty: the next free
    ones), record them, and add them to its link. Return them with prefix length.

    Calling it again with the same address changes nothing. Raises DevenvError ``address_refused``, or ``node_no_ssh``
    if the node does not run.
    """
    members.check_move(state.stored_profile(folder), name)
    network = state.read_network(folder) or network_plan.EMPTY
    pid = _pid(environment, name)
    moved = network_plan.move(network, name, desired)
    addresses = _interfaces(moved, name)
    # Recorded before they are used: a node that starts now starts with both or with the new ones.
    files.write(folder / "ssh" / "hosts" / name / FILE, " ".join(addresses) + "\n")
    state.write_network(folder, moved)
    known = {node: list(entry["addresses"].values()) for node, entry in moved["nodes"].items()}
    known[name] += network["nodes"][name]["addresses"].values()
    ssh_keys.write_known_hosts(folder, known)
    _add(pid, addresses)
    _prefer(pid, addresses, network)
    return addresses


def _prefer(pid: int, addresses: Sequence[str], network: NetworkPlan) -> None:
    """Put the old IPv4 addresses behind the new ones: a connection that starts from an old address would hang when that
    is removed. They are back before any connection misses them.
    """
    old = [address for address in _current(pid) if address not in addresses and ":" not in address]
    if old:
        lines = [f"address {verb} {address} dev eth0" for address in old for verb in ("delete", "add")]
        lines.append(f"route replace default via {network['gateways']['ipv4']} dev eth0")
        _inside(pid, *PROMOTE)
        _inside(pid, "ip", "-batch", "-", stdin="\n".join(lines) + "\n")


def end(folder: Path, environment: str, name: str) -> list[str]:
    """Remove the node's old addresses; return them."""
    network = state.read_network(folder) or network_plan.EMPTY
    pid = _pid(environment, name)
    addresses = _interfaces(network, name)
    old = [address for address in _current(pid) if address not in addresses]
    if old:
        _inside(pid, *PROMOTE)
    for address in old:
        # Closes connections at once, where the kernel can: the peer would otherwise wait until it gives up.
        _inside(pid, "ss", "--kill", "--tcp", "--numeric", "src", address.split("/")[0], check=False)
        _inside(pid, "ip", "address", "delete", address, "dev", "eth0")
    _add(pid, addresses)
    for gateway in network["gateways"].values():
        _inside(pid, "ip", "route", "replace", "default", "via", gateway, "dev", "eth0")
    ssh_keys.write_known_hosts(folder, ssh_keys.node_addresses(network))
    state.write_inventory(folder)
    return old


def _interfaces(network: NetworkPlan, name: str) -> list[str]:
    """Return the planned addresses of a node with prefix length."""
    addresses = network["nodes"][name]["addresses"]
    return [f"{addresses[family]}/{subnet.split('/')[1]}" for family, subnet in network["subnets"].items()]


def _current(pid: int) -> list[str]:
    links = json.loads(_inside(pid, "ip", "-json", "address", "show", "dev", "eth0") or "[]")
    return [f"{row['local']}/{row['prefixlen']}" for row in links[0]["addr_info"] if row.get("scope") == "global"]


def _add(pid: int, addresses: Iterable[str]) -> None:
    for address in addresses:
        nodad = ["nodad"] if ":" in address else []
        _inside(pid, "ip", "address", "replace", address, *nodad, "dev", "eth0")


def _pid(environment: str, name: str) -> int:
    for container in cli.containers(environment):
        if container.node == name and container.state == RUNNING:
            return container.pid
    raise DevenvError("node_no_ssh", f"{name} does not run", advice="Start it first: devenv start.")


def _inside(pid: int, *argv: str, check: bool = True, stdin: str | None = None) -> str:
    """Run a program in the node's network namespace and return its output."""
    argv = ("nsenter", f"--net=/proc/{pid}/ns/net", *argv)
    return program.run(argv, check=check, stdin=stdin).stdout
