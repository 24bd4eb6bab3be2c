"""Which firewalls drop traffic of nodes: what devenv derives from the rules, compared with the kernel.

Each case has a network namespace of its own with two machines on a bridge, so the rules of this machine stay as they
are.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
# Two machines on a bridge in this namespace, and a third network behind it. A refused connection proves that the path
# is open.
PROGRAM = """
import json, signal, socket, subprocess, sys, time
from ansible_collections.devenv.lab.plugins.plugin_utils.host import firewall

def sh(line):
    return subprocess.run(["sh", "-ec", line], check=True, capture_output=True, text=True).stdout

def machine(number, link, address, gateway):
    child = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    own = subprocess.run(["readlink", "/proc/self/ns/net"], capture_output=True, text=True).stdout
    while subprocess.run(["readlink", f"/proc/{child.pid}/ns/net"], capture_output=True, text=True).stdout == own:
        time.sleep(0.01)
    sh(f"ip link add v{number} type veth peer name e{number} netns {child.pid}; ip link set v{number} {link} up")
    for words in (f"ip link set e{number} up", "ip link set lo up", f"ip address add {address} dev e{number}",
                  f"ip route add default via {gateway}"):
        sh(f"nsenter --net=/proc/{child.pid}/ns/net {words}")
    return child

CONNECT = "import socket; socket.create_connection(('%s', 9), timeout=1)"

def open_paths(child, *addresses):
    inside = ["nsenter", f"--net=/proc/{child.pid}/ns/net", sys.executable, "-c"]
    tries = [subprocess.Popen([*inside, CONNECT % address], stderr=subprocess.PIPE, text=True) for address in addresses]
    return ["ConnectionRefused" in each.communicate()[1] for each in tries]

def state():
    probes = firewall.probes(SUBNETS, "podman9", several=True)
    return {"probes": [probe.ok for probe in probes], "seen": [probe.seen for probe in probes],
            "fix": [probe.fix for probe in probes], "kernel": open_paths(children[0], "10.213.7.11", "192.0.2.10")}

def examine(rules, then, bridged):
    sh("iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F; iptables-legacy -X")
    sh(f"nft flush ruleset; sysctl -qw net.bridge.bridge-nf-call-iptables={bridged}")
    subprocess.run(["sh", "-e"], input=rules, check=True, capture_output=True, text=True)
    result = {"before": state()}
    if then == "fix":
        sh("; ".join(fix for fix in result["before"]["fix"] if fix))
    if then == "adjust":
        result["adjusted"] = [firewall.adjust("lab", "podman9", SUBNETS, several=True) for _ in range(2)]
    if then:
        result["after"] = state()
    if then == "adjust":
        result["restored"] = firewall.restore("other"), firewall.restore("lab"), firewall.restore("lab")
        result["rules"] = sh(f"{'iptables-legacy' if 'legacy' in rules else 'iptables'} -S DOCKER-USER")
    return result

SUBNETS = {"ipv4": "10.213.7.0/24"}
sh("ip link set lo up; ip link add podman9 type bridge; ip link set podman9 up; sysctl -qw net.ipv4.ip_forward=1;"
   "ip address add 10.213.7.1/24 dev podman9")
children = [machine(1, "master podman9", "10.213.7.10/24", "10.213.7.1"),
            machine(2, "master podman9", "10.213.7.11/24", "10.213.7.1"),
            machine(3, "", "192.0.2.10/24", "192.0.2.1")]
try:
    sh("ip address add 192.0.2.1/24 dev v3; ip route add default via 192.0.2.10")
    print(json.dumps([examine(*each) for each in json.load(sys.stdin)]))
finally:
    for child in children:
        child.terminate()
        child.wait()
"""

Results = list[dict[str, Any]]


def examine(*cases: tuple[str, str, int]) -> Results:
    """Return what PROGRAM finds for each case: rules, what to do with them then, and whether bridges pass packets to
    the firewall.
    """
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", PROGRAM],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results: Results = json.loads(done.stdout)
    return results


def table(*rules: str, policy: str = "drop", family: str = "inet", more: str = "") -> str:
    """A shell command that loads a table with one forward chain."""
    lines = "\n".join(rules)
    return f"""nft -f - << 'END'
table {family} guard {{
{more}
chain forward {{ type filter hook forward priority 0; policy {policy};
{lines}
}}
}}
END
"""


@dataclass(frozen=True)
class Case:
    """Rules, and whether the traffic between nodes and to other networks passes."""

    rules: str
    between: bool
    outward: bool
    bridged: int = 1


ANSWERS = "ct state established,related accept"
DOCKER = """
iptables -P FORWARD DROP
for chain in DOCKER-USER DOCKER-FORWARD DOCKER-CT DOCKER; do iptables -N $chain; done
iptables -A FORWARD -j DOCKER-USER
iptables -A FORWARD -j DOCKER-FORWARD
iptables -A DOCKER-FORWARD -j DOCKER-CT
iptables -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A DOCKER-FORWARD -o docker0 -j DOCKER
iptables -A DOCKER-FORWARD -i docker0 -j ACCEPT
iptables -A DOCKER ! -i docker0 -o docker0 -j DROP
"""
UFW = """
iptables -P FORWARD DROP
iptables -N ufw-before-forward
iptables -A FORWARD -j ufw-before-forward
iptables -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A ufw-before-forward -p icmp --icmp-type 8 -j ACCEPT
"""
LEGACY_DOCKER, LEGACY_UFW = (rules.replace("iptables ", "iptables-legacy ") for rules in (DOCKER, UFW))
# As firewalld 1.3 writes it: zone public with the link of the default route, and the default zone for others.
FIREWALLD = """nft -f - << 'END'
table inet firewalld {
chain filter_FORWARD { type filter hook forward priority 10; policy accept;
ct state { established, related } accept
ct status dnat accept
iifname "lo" accept
jump filter_FORWARD_ZONES
reject with icmpx admin-prohibited
}
chain filter_FORWARD_ZONES { iifname "v3" goto filter_FWD_public
goto filter_FWD_public
}
chain filter_FWD_public { jump filter_FWD_public_allow
reject with icmpx admin-prohibited
}
chain filter_FWD_public_allow { oifname "v3" accept
}
}
END
"""
LAN = "set lan { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }\n}"
CASES = {
    "none": Case("true", True, True),
    "policy": Case(table(ANSWERS), False, False),
    "not-bridged": Case(table(ANSWERS), True, False, bridged=0),
    "vmap": Case(table("ct state vmap { established : accept, related : accept, invalid : drop }"), False, False),
    "ports": Case(table(ANSWERS, "tcp dport { 80, 443 } accept", "meta l4proto icmp accept"), False, False),
    "subnet": Case(table(ANSWERS, "ip saddr 10.0.0.0/8 accept"), True, True),
    "other-subnet": Case(table(ANSWERS, "ip saddr 10.214.0.0/16 accept"), False, False),
    "set": Case(table(ANSWERS, "ip saddr @lan accept", more=LAN), True, True),
    "bridge-name": Case(table(ANSWERS, 'iifname "podman*" accept'), True, True),
    "other-link": Case(table(ANSWERS, "iifname docker0 accept", "iifname != eth9 drop", policy="accept"), False, False),
    "only-outward": Case(table(ANSWERS, 'oifname "v3" accept'), False, True),
    "jump": Case(table("jump sub", policy="accept", more=f"chain sub {{ {ANSWERS}\ndrop\n}}"), False, False),
    "goto": Case(table("goto sub", more="chain sub { tcp dport 22 accept\n}"), False, False),
    "drop-port": Case(table("tcp dport 25 drop", policy="accept"), True, True),
    "ipv6-only": Case(table("meta nfproto ipv6 drop", policy="accept"), True, True),
    "bridge-family": Case(table(policy="drop", family="bridge"), False, True),
    "two-tables": Case(table("accept", family="ip") + table(ANSWERS).replace("guard", "second"), False, False),
    "ufw": Case(UFW, False, False),
    "ufw-legacy": Case(LEGACY_UFW, False, False),
    "legacy-subnet": Case(LEGACY_UFW + "iptables-legacy -A FORWARD -s 10.0.0.0/8 -j ACCEPT", True, True),
    "firewalld": Case(FIREWALLD, False, True),
}  # fmt: skip


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return dict(zip(CASES, examine(*((case.rules, "", case.bridged) for case in CASES.values())), strict=True))


@pytest.mark.parametrize("name", list(CASES))
def test_rules_are_understood_as_the_kernel_does(name: str, results: dict[str, dict[str, Any]]) -> None:
    case, state = CASES[name], results[name]["before"]
    assert state["kernel"] == [case.between, case.outward]
    assert state["probes"] == [case.between, case.outward], state["seen"]


def test_the_printed_commands_open_the_path() -> None:
    dropping = [table(ANSWERS), UFW, LEGACY_UFW, table("counter drop", policy="accept", family="ip")]
    for result in examine(*((rules, "fix", 1) for rules in dropping)):
        assert result["before"]["probes"] == [False, False]
        assert (result["after"]["kernel"], result["after"]["probes"]) == ([True, True], [True, True])


def test_firewalld_gets_its_own_command(results: dict[str, dict[str, Any]]) -> None:
    state = results["firewalld"]["before"]
    assert state["seen"][0] == "the chain inet firewalld filter_FORWARD drops ipv4 between nodes"
    assert state["fix"][0] == "firewall-cmd --zone=trusted --add-source=10.213.7.0/24"


@pytest.mark.parametrize(("docker", "program"), [(DOCKER, "iptables"), (LEGACY_DOCKER, "iptables-legacy")])
def test_dockers_chain_for_rules_of_others_is_used_and_restored(docker: str, program: str) -> None:
    # With a second table that drops as well, accepting there opens nothing.
    result, both = examine((docker, "adjust", 1), (docker + table(ANSWERS), "", 1))
    # What devenv opens itself is not reported.
    assert (result["before"]["kernel"], result["before"]["probes"]) == ([False, False], [True, True])
    assert result["adjusted"] == [True, False]
    assert (result["after"]["kernel"], result["after"]["probes"]) == ([True, True], [True, True])
    assert result["restored"] == [[], [f"{program} rule of DOCKER-USER"], []]
    assert result["rules"] == "-N DOCKER-USER\n"
    assert both["before"]["probes"] == [False, False]
    assert "the chain inet guard forward drops" in both["before"]["seen"][0]
