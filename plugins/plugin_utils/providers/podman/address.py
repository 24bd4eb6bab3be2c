"""Another address for a node that runs: chosen, put beside the old one, and the old one taken away in the end.

A container's environment cannot change, so the addresses stand in a file of the state folder, which the node's first
process (roles/node_image/files/node-init) prefers at each start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, network_plan, ssh_keys, state
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli

FILE = "addresses"
# Else the kernel takes the other addresses with the first of the subnet, and the way out with it.
PROMOTE = "net.ipv4.conf.eth0.promote_secondaries=1"


def begin(folder: Path, environment: str, name: str, wanted: str) -> list[str]:
    """Choose the node's new addresses (``wanted`` and its like in the other family; empty: the next that are free),
    write them down everywhere, and put them on its link beside the old ones. Return them, with prefix length.

    Once more with the same address, it changes nothing that is so already. Raises DevenvError address_refused,
    node_no_ssh when the node does not run.
    """
    members.check_move(state.stored_profile(folder), name)
    network = state.read_network(folder) or network_plan.EMPTY
    pid = _pid(environment, name)
    moved = network_plan.move(network, name, wanted)
    new = _with_prefix(moved, name)
    # Before anything is told of them: a node that starts now starts with both or with the new.
    _write(folder, name, new)
    state.write_network(folder, moved)
    ssh_keys.write_known_hosts(
        folder,
        {
            node: [*one["addresses"].values(), *(network["nodes"][node]["addresses"].values() if node == name else ())]
            for node, one in moved["nodes"].items()
        },
    )
    for address in new:
        _ip(pid, "address", "replace", address, *(["nodad"] if ":" in address else []))
    _prefer_new(pid, new, network)
    return new


def _prefer_new(pid: int, new: list[str], network: Mapping[str, Any]) -> None:
    """Put IPv4 addresses that are to go behind the new: what connects from now on would hang with the first when that
    is taken away. They are back before any connection misses them.
    """
    old = [address for address in _there(pid) if address not in new and ":" not in address]
    if old:
        lines = [f"address {verb} {address} dev eth0" for address in old for verb in ("delete", "add")]
        lines.append(f"route replace default via {network['gateways']['ipv4']} dev eth0")
        program.run(_inside(pid, "sysctl", "-qw", PROMOTE))
        program.run(_inside(pid, "ip", "-batch", "-"), stdin="\n".join(lines) + "\n")


def _there(pid: int) -> list[str]:
    shown = json.loads(_ip(pid, "address", "show", json_output=True) or "[]")
    return [f"{row['local']}/{row['prefixlen']}" for row in shown[0]["addr_info"] if row.get("scope") == "global"]


def end(folder: Path, environment: str, name: str) -> list[str]:
    """Take the addresses away that are no longer the node's; return them."""
    network = state.read_network(folder) or network_plan.EMPTY
    pid = _pid(environment, name)
    kept = _with_prefix(network, name)
    gone = [address for address in _there(pid) if address not in kept]
    if gone:
        program.run(_inside(pid, "sysctl", "-qw", PROMOTE))
    for address in gone:
        # Told to the other side at once, where the kernel can: it would wait for answers until it gives up.
        program.run(_inside(pid, "ss", "--kill", "--tcp", "--numeric", "src", address.split("/")[0]), check=False)
        _ip(pid, "address", "delete", address)
    for address in kept:
        _ip(pid, "address", "replace", address, *(["nodad"] if ":" in address else []))
    for gateway in network["gateways"].values():
        _ip(pid, "route", "replace", "default", "via", gateway)
    ssh_keys.write_known_hosts(folder, ssh_keys.node_addresses(network))
    state.write_inventory(folder)
    return gone


def _write(folder: Path, name: str, new: list[str]) -> None:
    files.write(folder / "ssh" / "hosts" / name / FILE, " ".join(new) + "\n")


def _with_prefix(network: Mapping[str, Any], name: str) -> list[str]:
    own = network["nodes"][name]["addresses"]
    return [f"{own[family]}/{subnet.split('/')[1]}" for family, subnet in network["subnets"].items()]


def _pid(environment: str, name: str) -> int:
    for container in cli.containers(environment):
        if container.node == name and container.state == "running":
            return container.pid
    raise DevenvError("node_no_ssh", f"{name} does not run", advice="Start it first: devenv start.")


def _inside(pid: int, *argv: str) -> list[str]:
    return ["nsenter", f"--net=/proc/{pid}/ns/net", *argv]


def _ip(pid: int, *words: str, json_output: bool = False) -> str:
    return program.run(_inside(pid, "ip", *(["-json"] if json_output else []), *words, "dev", "eth0")).stdout
