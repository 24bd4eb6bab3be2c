"""Address families and DHCP: two environments at the same time, verified by kubectl, curl, ip, nslookup and ss.

One has three masters with static IPv6 addresses only; the other has a master and a worker with both families, IPv6
first, by DHCP.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import web
from support.commands import Typed, finish_all
from support.seen import inside

pytestmark = pytest.mark.cluster

# Base profile, changes to it, nodes, families.
STACKS = {
    "ipv6": ("compact-ipv6-static", "", ("master-0", "master-1", "master-2"), [6]),
    "dualstack6": ("master-2pipe-dualstack6-dhcp", "nodes: {worker-1: null}\n", ("master-0", "worker-0"), [6, 4]),
}


class Stack:
    """One environment, and its state according to independent programs."""

    def __init__(self, user: Typed, name: str, nodes: tuple[str, ...], families: list[int]) -> None:
        self.user, self.name, self.nodes, self.families = user, name, nodes, families
        self.folder = user.home / "environments" / name

    def kubectl(self, *words: str) -> str:
        return self.user.kubectl(self.name, *words).stdout

    def listed(self, *words: str) -> list[dict[str, Any]]:
        return list(json.loads(self.kubectl("get", *words, "-o", "json"))["items"])

    def item(self, *words: str) -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", *words, "-o", "json")))

    def on(self, node: str, *argv: str) -> str:
        return inside(f"{self.name}-{node}", *argv)

    def plan(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.folder / "network.yml").read_text()))

    def addresses(self, node: str) -> set[str]:
        """Return the global addresses of a node's link from its kernel."""
        rows = json.loads(self.on(node, "ip", "-json", "address", "show", "dev", "eth0"))[0]["addr_info"]
        return {row["local"] for row in rows if row["scope"] == "global"}

    def server(self) -> int | None:
        """Return the process ID of its DHCP server: a dnsmasq with the state directory in its arguments."""
        pids = [
            int(entry.name)
            for entry in Path("/proc").glob("[0-9]*")
            if (words := _arguments(entry)) and words[0].endswith("dnsmasq") and str(self.folder) in " ".join(words)
        ]
        assert len(pids) <= 1
        return pids[0] if pids else None


def _arguments(entry: Path) -> list[str]:
    try:
        return (entry / "cmdline").read_text().split("\0")
    except OSError:
        return []


def versions(texts: list[str]) -> list[int]:
    return [ipaddress.ip_interface(text).version for text in texts]


@pytest.fixture(scope="module")
def stacks(
    user: Typed, new_name: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Stack]]:
    """Both environments, created at the same time, with the application in each."""
    folder = tmp_path_factory.mktemp("profiles")
    created, children = {}, []
    for stack, (base, changes, nodes, families) in STACKS.items():
        profile = folder / f"{stack}.yml"
        profile.write_text(f"extends: {base}\n{changes}")
        created[stack] = Stack(user, new_name(stack), nodes, families)
        words = ["up", "--profile", str(profile), "--name", created[stack].name, "--timeout", "14m"]
        children.append(user.start("devenv", *words))
    finish_all(children, seconds=900)
    for environment in created.values():
        web.deploy(user, environment.name, folder, server=environment.nodes[-1], client="master-0")
    yield created
    for environment in created.values():
        user.devenv("down", "--name", environment.name)


@pytest.fixture(params=list(STACKS))
def stack(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Stack:
    return stacks[request.param]


@pytest.fixture
def ipv6(stacks: dict[str, Stack]) -> Stack:
    return stacks["ipv6"]


@pytest.fixture
def dhcp(stacks: dict[str, Stack]) -> Stack:
    return stacks["dualstack6"]


def test_families_have_the_order_of_the_stack(stack: Stack) -> None:
    nodes = stack.listed("nodes")
    assert sorted(node["metadata"]["name"] for node in nodes) == list(stack.nodes)
    for node in nodes:
        internal = [row["address"] for row in node["status"]["addresses"] if row["type"] == "InternalIP"]
        assert versions(internal) == stack.families
        assert versions(node["spec"]["podCIDRs"]) == stack.families
    for pod in stack.listed("pods", "--all-namespaces"):
        assert versions([row["ip"] for row in pod["status"]["podIPs"]]) == stack.families, pod["metadata"]["name"]
    assert versions(stack.item("service", "web")["spec"]["clusterIPs"]) == stack.families
    # A Service without a family policy gets the first family.
    assert versions(stack.item("service", "kubernetes")["spec"]["clusterIPs"]) == stack.families[:1]
    server = yaml.safe_load((stack.folder / "kubeconfig").read_text())["clusters"][0]["cluster"]["server"]
    assert server.startswith("https://[")


def test_ipv6_means_no_ipv4_anywhere(ipv6: Stack) -> None:
    for node in ipv6.nodes:
        rows = json.loads(ipv6.on(node, "ip", "-json", "-4", "address", "show"))
        assert {row["ifname"] for row in rows if row.get("addr_info")} <= {"lo"}
        assert ipv6.on(node, "ip", "-4", "route", "show").strip() == ""
        # The node's own resolver and that of CoreDNS.
        for path in ("/etc/resolv.conf", "/run/devenv/resolv.conf"):
            servers = re.findall(r"^nameserver\s+(\S+)", ipv6.on(node, "cat", path), re.MULTILINE)
            assert set(versions(servers)) <= {6}
        shown_by_podman = subprocess.run(
            ["podman", "inspect", f"{ipv6.name}-{node}", "--format", "{{json .NetworkSettings}}"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert not re.search(r'"IPAddress":"[^"]', shown_by_podman)
    rows = ipv6.kubectl("exec", "client", "--", "ip", "-4", "address", "show")
    assert re.findall(r"inet (\S+)", rows) in ([], ["127.0.0.1/8"])
    bridge = json.loads(
        subprocess.run(
            ["ip", "-json", "address", "show", "dev", ipv6.plan()["bridge"]], capture_output=True, text=True, check=True
        ).stdout
    )[0]
    assert "inet" not in {row["family"] for row in bridge["addr_info"]}


def test_a_service_answers_across_nodes_and_by_name(stack: Stack) -> None:
    service = stack.item("service", "web")
    placed = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in stack.listed("pods")}
    assert placed == {"server": stack.nodes[-1], "client": "master-0"}
    for address in service["spec"]["clusterIPs"]:
        url = web.url(web.bracketed(address))
        assert stack.kubectl("exec", "client", "--", "curl", "-sS", "--max-time", "10", url).strip() == "server"
        kind = {4: "a", 6: "aaaa"}[versions([address])[0]]
        name = "web.default.svc.cluster.local"
        answer = stack.kubectl("exec", "client", "--", "nslookup", f"-type={kind}", name)
        record = answer.partition("Name:")[2]
        assert ipaddress.ip_address(re.findall(r"Address:\s+(\S+)", record)[0]) == ipaddress.ip_address(address)


def test_an_unknown_service_address_is_refused_immediately(stack: Stack) -> None:
    """A packet that is sent before kube-proxy has the Service must not be dropped: CoreDNS would wait 30 seconds."""
    resolved = yaml.safe_load((stack.user.home / "environments" / stack.name / "profile.yml").read_text())
    for family in resolved["families"]:
        address = str(ipaddress.ip_network(resolved["network"]["services"][family])[-6])
        request = f"curl -s --max-time 10 -w '%{{time_total}}' {web.url(web.bracketed(address))}; echo \" $?\""
        seconds, code = stack.kubectl("exec", "client", "--", "sh", "-c", request).split()
        assert (code, float(seconds) < 2) == ("7", True), f"{address}: {seconds} s"


def test_a_node_port_answers_the_host_on_every_address(stack: Stack) -> None:
    port = web.node_port(stack.user, stack.name)
    tried = [address for node in stack.plan()["nodes"].values() for address in node["addresses"].values()]
    for address in tried:
        assert web.from_host(stack.user, f"{web.bracketed(address)}:{port}") == "server", address
    assert sorted(versions(tried)) == sorted(stack.families * len(stack.nodes))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_service_is_forwarded_until_ctrl_c(ipv6: Stack, address: str) -> None:
    words = ["forward", "--name", ipv6.name, "--address", address, "--json", "web:http"]
    child = ipv6.user.start("devenv", *words)
    try:
        assert child.stdout is not None
        forward = json.loads(child.stdout.readline())
        assert (forward["service"], forward["namespace"], forward["port"]) == ("web", "default", 80)
        assert web.from_host(ipv6.user, forward["local"]) == "server"
    finally:
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (0, ""), err
    failed = ipv6.user.run("/usr/bin/curl", "-sS", "--noproxy", "*", web.url(forward["local"]), code=None)
    assert failed.returncode == 7


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["wbe"], 11, "default/web"),
        (["web:81"], 2, "80 (http)"),
        (["kube-system/kube-dns:dns"], 2, "UDP"),
        (["kubernetes"], 2, "selector"),
        (["web", "--address", "203.0.113.7"], 2, "203.0.113.7"),
    ],
)
def test_an_impossible_forward_is_refused_in_one_line(ipv6: Stack, words: list[str], code: int, message: str) -> None:
    done = ipv6.user.devenv("forward", "--name", ipv6.name, *words, code=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_dhcp_assigns_the_addresses_of_the_plan(dhcp: Stack) -> None:
    plan = dhcp.plan()
    leases = (dhcp.folder / "dhcp" / "leases").read_text().split()
    for name, node in plan["nodes"].items():
        assert dhcp.addresses(name) == set(node["addresses"].values())
        assert set(node["addresses"].values()) <= set(leases)
        # The addresses come from leases in the client's files, not from podman or node-init.
        assert dhcp.on(name, "cat", "/var/lib/dhcp/devenv-4.leases").count(node["addresses"]["ipv4"]) >= 1
        routes = dhcp.on(name, "ip", "-6", "route", "show", "default")
        assert "proto ra" in routes
        assert "fe80::" in routes
        assert plan["gateways"]["ipv4"] in dhcp.on(name, "ip", "-4", "route", "show", "default")
    sockets = subprocess.run(["ss", "-Hlunp"], capture_output=True, text=True, check=True).stdout
    listening = [line.split()[3] for line in sockets.splitlines() if f"pid={dhcp.server()}," in line]
    assert sorted(listening) == sorted([f"0.0.0.0%{plan['bridge']}:67", f"[::]%{plan['bridge']}:547"])


@pytest.mark.nightly
def test_up_restarts_a_dead_dhcp_server(dhcp: Stack) -> None:
    first = dhcp.server()
    assert first is not None
    subprocess.run(["kill", "-KILL", str(first)], check=True)
    deadline = time.monotonic() + 10
    while dhcp.server() is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    dhcp.user.devenv("up", "--name", dhcp.name)
    second = dhcp.server()
    assert second is not None
    assert second != first
    # A running server is left alone.
    assert dhcp.user.changes("up", "--name", dhcp.name, "--full") == []
    assert dhcp.server() == second


def test_stop_and_start_renew_the_same_addresses(dhcp: Stack) -> None:
    before = {node: dhcp.addresses(node) for node in dhcp.nodes}
    dhcp.user.devenv("stop", "--name", dhcp.name)
    assert dhcp.server() is None
    dhcp.user.devenv("start", "--name", dhcp.name)
    assert dhcp.server() is not None
    assert {node: dhcp.addresses(node) for node in dhcp.nodes} == before
    assert dhcp.on("master-0", "systemctl", "is-active", "devenv-dhcp@4", "devenv-dhcp@6").split() == ["active"] * 2


def test_down_leaves_no_server_and_no_link_when_the_folder_is_lost(dhcp: Stack) -> None:
    """Runs last, since it removes the environment."""
    bridge, server = dhcp.plan()["bridge"], dhcp.server()
    assert server is not None
    shutil.rmtree(dhcp.folder)
    dhcp.user.devenv("down", "--name", dhcp.name)
    assert dhcp.server() is None
    assert _arguments(Path("/proc") / str(server)) in ([], [""])
    assert not Path("/sys/class/net", bridge).exists()
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert f"devenv-{dhcp.name}" not in tables


def test_up_refuses_dhcp_without_dnsmasq(user: Typed, new_name: Callable[[str], str], tmp_path: Path) -> None:
    """Hide the program from one run only; the host keeps it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("/usr/local/bin", "/usr/sbin", "/usr/bin"):
        for entry in Path(folder).iterdir():
            if entry.name != "dnsmasq" and not (programs / entry.name).is_symlink():
                (programs / entry.name).symlink_to(entry)
    name = new_name("none")
    # With plain Ansible, since the devenv command adds /usr/sbin and /sbin to PATH.
    words = ("-e", "profile=sno-ipv4-dhcp", "-e", f"devenv_name={name}")
    failed = user.playbook("cluster", *words, code=2, env={"PATH": str(programs)})
    assert "program dnsmasq: not found" in failed.stdout + failed.stderr
    assert "apt-get install -y --no-install-recommends dnsmasq-base" in failed.stdout + failed.stderr
    assert not (user.home / "environments" / name).exists()
