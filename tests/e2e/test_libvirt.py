"""Nodes as virtual machines: created, reached, removed without a trace. Emulated if this machine's KVM boots none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support import web
from support.commands import Typed

# The molecule scenario provider_libvirt creates, checks and removes a machine on every change.
pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

PROFILE = """\
topology: sno
stack: {stack}
addressing: {addressing}
provider: libvirt
nodes:
  master-0: null
  worker-0: {{cluster: null, cpus: 1, memory: 1GiB, disk: 8GiB}}
"""
CLUSTER = """\
topology: sno
stack: dualstack
provider: libvirt
nodes:
  master-0: {cpus: 2, memory: 3GiB, disk: 20GiB}
  worker-0: {cpus: 2, memory: 2GiB, disk: 20GiB}
"""
# For an emulated machine while other tests run.
SECONDS = 1500


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


def traces(name: str, bridge: str) -> list[str]:
    """Return the environment's links, tables, folders and processes on this host, without devenv's own code."""
    links = json.loads(output("ip", "-json", "link", "show"))
    remaining = [link["ifname"] for link in links if bridge in (link["ifname"], link.get("master"))]
    remaining += [word for word in output("nft", "list", "tables").split() if word == f"devenv-{name}"]
    remaining += [str(path) for path in Path("/run/devenv/libvirt").glob(name)]
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        remaining += [command[:80]] if command.startswith("/usr/bin/qemu") and f"guest={name}-" in command else []
    return remaining


@pytest.fixture
def machine(
    request: pytest.FixtureRequest, user: Typed, new_name: Callable[[str], str], tmp_path: Path
) -> Iterator[str]:
    """The name of an environment with a running virtual machine. ``param`` is stack and addressing."""
    name, profile = new_name("vm"), tmp_path / "machine.yml"
    stack, addressing = request.param
    profile.write_text(PROFILE.format(stack=stack, addressing=addressing))
    user.devenv("up", "--profile", str(profile), "--name", name, seconds=SECONDS)
    bridge = yaml.safe_load((user.home / "environments" / name / "network.yml").read_text())["bridge"]
    # Bridge and tap, nft table, folder, emulator.
    assert len(traces(name, bridge)) == 5
    yield name
    user.devenv("down", "--name", name)
    assert traces(name, bridge) == []


def ssh(user: Typed, name: str, command: str) -> str:
    return user.devenv("ssh", "--name", name, "worker-0", "--", command).stdout.strip()


@pytest.mark.parametrize("machine", [("ipv4", "static")], indirect=True)
def test_a_virtual_machine_is_created_reached_and_removed(user: Typed, machine: str) -> None:
    assert ssh(user, machine, "hostname") == "worker-0"
    # A container would have the kernel of this host.
    assert ssh(user, machine, "uname -r") != os.uname().release
    assert ssh(user, machine, "cat /sys/class/dmi/id/sys_vendor") == "QEMU"
    kilobytes = int(ssh(user, machine, "awk '/MemTotal/ {print $2}' /proc/meminfo"))
    assert 900 << 10 < kilobytes < 1 << 20
    assert int(ssh(user, machine, "df --output=size --block-size=M / | tail -n 1").rstrip("M")) > 7 * 1024
    row = next(row for row in user.data("list") if row["name"] == machine)
    assert (row["state"], row["running"]) == ("running", 1)
    assert user.changes("up", "--name", machine, "--full") == []


@pytest.mark.parametrize("machine", [("dualstack", "dhcp")], indirect=True)
def test_a_machine_survives_stop_start_and_a_host_reboot_and_is_listed_without_its_folder(
    user: Typed, machine: str
) -> None:
    addresses = json.loads(ssh(user, machine, "ip -json address show eth0"))[0]["addr_info"]
    assert {row["family"] for row in addresses if row["scope"] == "global"} == {"inet", "inet6"}
    ssh(user, machine, "echo kept > /root/note")
    user.devenv("stop", "--name", machine, seconds=SECONDS)
    assert next(row for row in user.data("list") if row["name"] == machine)["state"] == "stopped"
    user.devenv("start", "--name", machine, seconds=SECONDS)
    assert ssh(user, machine, "cat /root/note") == "kept"
    refused = user.devenv("snapshot", "save", "vm", "--name", machine, code=2)
    assert "[provider_cannot]" in refused.stderr
    # The state after a reboot of the host.
    bridge = yaml.safe_load((user.home / "environments" / machine / "network.yml").read_text())["bridge"]
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if command.startswith("/usr/bin/qemu") and f"guest={machine}-" in command:
            os.kill(int(place.name), 9)
    output("ip", "link", "delete", "dev", bridge)
    output("nft", "delete", "table", "inet", f"devenv-{machine}")
    shutil.rmtree(f"/run/devenv/libvirt/{machine}")
    user.devenv("start", "--name", machine, seconds=SECONDS)
    assert ssh(user, machine, "cat /root/note") == "kept"
    shutil.rmtree(user.home / "environments" / machine)
    assert next(row for row in user.data("list") if row["name"] == machine)["state"] == "orphan"


# Alone: with two emulated machines and another test on two cores, Kubernetes components lose their leases.
@pytest.mark.alone
def test_a_cluster_of_machines_comes_up_and_works(user: Typed, new_name: Callable[[str], str], tmp_path: Path) -> None:
    name, profile = new_name("vms"), tmp_path / "cluster.yml"
    profile.write_text(CLUSTER)
    user.devenv("up", "--profile", str(profile), "--name", name, seconds=SECONDS)
    network = yaml.safe_load((user.home / "environments" / name / "network.yml").read_text())
    try:
        web.deploy(user, name, tmp_path, server="worker-0", client="master-0")
        port = web.node_port(user, name)
        for node in network["nodes"].values():
            for address in node["addresses"].values():
                assert web.from_host(user, f"{web.bracketed(address)}:{port}") == "server", address
        assert user.changes("up", "--name", name, "--full", seconds=SECONDS) == []
        kernels = user.kubectl(name, "get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kernelVersion}").stdout
        assert len(kernels.split()) == 2
        assert os.uname().release not in kernels.split()
    finally:
        user.devenv("down", "--name", name)
    assert traces(name, network["bridge"]) == []
