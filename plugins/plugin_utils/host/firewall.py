"""Firewalls of this host that drop the nodes' traffic: which chain does it, and docker's chain for rules of others.

Every chain of a hook has to accept a packet, so an accept rule opens the path only in the chain that drops it.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import SYSCTLS, Probe, sysctl_read
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses

Expression = Mapping[str, Any]

# docker processes this chain before its own rules, and leaves its content to others
# (https://docs.docker.com/engine/network/packet-filtering-firewalls/).
OTHERS_CHAIN = "DOCKER-USER"
# nft calls it: bridged packets pass the hooks of IP, too (https://docs.kernel.org/networking/bridge.html).
BRIDGED = {"ipv4": "net.bridge.bridge-nf-call-iptables", "ipv6": "net.bridge.bridge-nf-call-ip6tables"}
_FAMILIES = {"ipv4": ("ip", "inet"), "ipv6": ("ip6", "inet")}
_HOOKS = ("prerouting", "forward", "postrouting")
_IPTABLES = {"ip": "iptables", "ip6": "ip6tables"}
# The tables of the older implementation of iptables, whose rules nft does not list (iptables-legacy(8)).
_LEGACY_TABLES = {"ip": Path("/proc/net/ip_tables_names"), "ip6": Path("/proc/net/ip6_tables_names")}
# Prints the rules on stdin as nft lists them; runs in a network namespace of its own, which has no other rules.
_AS_NFT = "{program}-nft-restore && exec nft --json --stateless list ruleset"
# Conditions that some of the nodes' traffic never meets: of ports, of rates, and of connections that exist already
# (iptables' own form of conntrack hides the states; in practice they are RELATED and ESTABLISHED).
_PARTIAL_MATCHES = {"conntrack", "hashlimit", "icmp", "icmp6", "limit", "multiport", "recent", "state", "tcp", "udp"}
_PARTIAL_FIELDS = {"dport", "sport", "type", "code", "l4proto", "nexthdr", "status"}


@dataclass(frozen=True)
class Traffic:
    """New connections of nodes, of any port. ``inward`` and ``outward`` are links; "" for one that does not exist."""

    family: str
    subnet: str
    inward: str
    outward: str
    between: bool


@dataclass(frozen=True)
class Chain:
    """A chain of nftables or, with ``legacy``, of iptables' older implementation; ``hook`` and ``policy`` are empty for
    one that only other chains use.
    """

    family: str
    table: str
    name: str
    hook: str = ""
    policy: str = ""
    rules: list[Sequence[Expression]] = field(default_factory=list)
    legacy: bool = False

    @property
    def iptables(self) -> str:
        """The program that changes it; only for a family and table of iptables."""
        return f"{_IPTABLES[self.family]}-legacy" if self.legacy else _IPTABLES[self.family]


@dataclass(frozen=True)
class Obstacle:
    """A chain that drops traffic of nodes; ``adjustable`` if it first uses docker's chain for rules of others."""

    chain: Chain
    traffic: Traffic
    adjustable: bool

    def __str__(self) -> str:
        what = "between nodes" if self.traffic.between else "from nodes to other networks"
        return f"the chain {self.chain.family} {self.chain.table} {self.chain.name} drops {self.traffic.family} {what}"

    @property
    def fix(self) -> str:
        """A command that lets the traffic of the subnet pass."""
        subnet, table, chain = self.traffic.subnet, self.chain.table, self.chain
        version = "ip" if self.traffic.family == "ipv4" else "ip6"
        if table == "firewalld":
            return f"firewall-cmd --zone=trusted --add-source={subnet}"
        if chain.family in _IPTABLES and table == "filter" and chain.name == "FORWARD":
            command = f"{chain.iptables} -I FORWARD"
            return f"{command} -s {subnet} -j ACCEPT; {command} -d {subnet} -j ACCEPT"
        place = f"nft insert rule {chain.family} {table} {chain.name} {version}"
        return f"{place} saddr {subnet} accept; {place} daddr {subnet} accept"


# --- reading the rules ------------------------------------------------------------------------------------------------


def ruleset() -> str:
    """Return the rules of this host as nft prints them in JSON; empty if they cannot be read."""
    try:
        return program.run(["nft", "--json", "--stateless", "list", "ruleset"], check=False).stdout
    except FileNotFoundError:
        return ""


def chains(text: str) -> list[Chain]:
    """Return all chains of this host; ``text`` is its `ruleset`."""
    return [*parse(text), *(chain for family in _LEGACY_TABLES for chain in _legacy_chains(family))]


def _legacy_chains(family: str) -> list[Chain]:
    """Return the chains of iptables' older implementation; none if it is not in use or a rule is unknown to nft."""
    try:
        if not _LEGACY_TABLES[family].read_text().strip():
            return []
        name = _IPTABLES[family]
        saved = program.run([f"{name}-legacy-save"], check=False).stdout
        listed = program.run(
            ["unshare", "--net", "sh", "-c", _AS_NFT.format(program=name)], stdin=saved, check=False
        ).stdout
    except OSError:
        return []
    return [replace(chain, legacy=True) for chain in parse(listed)]


def parse(text: str) -> list[Chain]:
    """Return the chains of a ruleset in nft's JSON (libnftables-json(5))."""
    chains: dict[tuple[str, str, str], Chain] = {}
    for entry in json.loads(text or '{"nftables": []}')["nftables"]:
        if "chain" in entry:
            row = entry["chain"]
            # Chains of other types (nat, route) do not filter.
            hook = row.get("hook", "") if row.get("type", "filter") == "filter" else "other"
            key = row["family"], row["table"], row["name"]
            chains[key] = Chain(*key, hook, row.get("policy", "accept") if hook else "")
        elif "rule" in entry:
            row = entry["rule"]
            chains[row["family"], row["table"], row["chain"]].rules.append(row["expr"])
    return list(chains.values())


def table_of(text: str, name: str) -> str:
    """Return the table ``name`` of a ruleset in a form that is the same for equal rules."""
    rows = [row for entry in json.loads(text or '{"nftables": []}')["nftables"] for row in entry.values()]
    own = [row for row in rows if name in (row.get("table"), row.get("name"))]
    return json.dumps([{key: value for key, value in row.items() if key != "handle"} for row in own], sort_keys=True)


def obstacles(chains: Sequence[Chain], traffic: Traffic) -> list[Obstacle]:
    """Return the chains that certainly drop all of the traffic. A rule whose condition is unknown here gets the benefit
    of the doubt.
    """
    families = (*_FAMILIES[traffic.family], *(("bridge",) if traffic.between else ()))
    now, opened = (_Evaluation(chains, traffic, opened=opened) for opened in (False, True))
    return [
        Obstacle(chain, traffic, adjustable=opened.verdict(chain) != "drop")
        for chain in chains
        if chain.hook in _HOOKS and chain.family in families and now.verdict(chain) == "drop"
    ]


class _Evaluation:
    """The path of one kind of traffic through chains of one table."""

    def __init__(self, chains: Sequence[Chain], traffic: Traffic, *, opened: bool) -> None:
        self._chains = {(chain.legacy, chain.family, chain.table, chain.name): chain for chain in chains}
        self._traffic = traffic
        self._opened = opened

    def verdict(self, chain: Chain) -> str:
        """Return ``accept``, ``drop``, or an empty text if the chain decides nothing."""
        if self._opened and is_for_others(chain):
            return "accept"
        for rule in chain.rules:
            decided = self._rule(chain, rule)
            if decided:
                return decided if decided != "return" else chain.policy
        return chain.policy

    def _rule(self, chain: Chain, rule: Sequence[Expression]) -> str:
        conditions = [_applies(expression, self._traffic) for expression in rule]
        if False in conditions:
            return ""
        action = next((found for expression in rule if (found := _action(expression, self._traffic))), "")
        verdict = self._action(chain, *action.partition(" ")[::2])
        # Of an unknown condition, only what lets the traffic pass counts.
        return verdict if verdict == "accept" or None not in conditions else ""

    def _action(self, chain: Chain, action: str, target: str) -> str:
        if action not in ("jump", "goto"):
            return action
        other = self._chains.get((chain.legacy, chain.family, chain.table, target))
        verdict = self.verdict(other) if other else "accept"
        return verdict or ("return" if action == "goto" else "")


def is_for_others(chain: Chain) -> bool:
    """Return whether this is docker's chain for rules of others."""
    return chain.name == OTHERS_CHAIN and chain.family in _IPTABLES and chain.table == "filter"


def _action(expression: Expression, traffic: Traffic) -> str:
    """Return the action of a statement (accept, drop, return, or jump and goto with a target); "" for others."""
    for name in ("accept", "return", "drop"):
        if name in expression:
            return name
    if "reject" in expression or (expression.get("xt") or {}).get("name") == "REJECT":
        return "drop"
    for name in ("jump", "goto"):
        if name in expression:
            return f"{name} {expression[name]['target']}"
    return _mapped(expression["vmap"], traffic) if "vmap" in expression else ""


def _mapped(vmap: Mapping[str, Any], traffic: Traffic) -> str:
    """Return the action of a verdict map; accept if that is unknown."""
    rows = vmap["data"].get("set") if isinstance(vmap["data"], dict) else None
    if rows is None:
        return "accept"
    for key, action in rows:
        result = _equal(vmap["key"], key, traffic)
        if result is not False:
            return _action(action, traffic) if result else "accept"
    return ""


def _applies(expression: Expression, traffic: Traffic) -> bool | None:
    """Return whether an expression lets all of the traffic through to the rest of its rule; None if that is unknown."""
    if "match" in expression:
        match = expression["match"]
        result = _equal(match["left"], match["right"], traffic)
        return result if result is None or match["op"] != "!=" else not result
    extension = expression.get("xt") or {}
    if extension.get("type") == "match":
        return False if extension["name"] in _PARTIAL_MATCHES else True if extension["name"] == "comment" else None
    return "limit" not in expression


def _equal(left: Any, right: Any, traffic: Traffic) -> bool | None:
    kind, key = next(iter(left.items())) if isinstance(left, dict) else ("", {})
    name = key.get("key", key.get("field", "")) if isinstance(key, dict) else ""
    listed = right.get("set", right) if isinstance(right, dict) else right
    options = listed if isinstance(listed, list) else [listed]
    if kind == "meta" and name in ("iifname", "oifname"):
        link = traffic.inward if name == "iifname" else traffic.outward
        return _any(_same_link(link, option) for option in options)
    if kind == "payload" and name in ("saddr", "daddr") and (name == "saddr" or traffic.between):
        return _any(_contains(option, traffic) for option in options)
    if kind == "ct" and name == "state":
        return "new" in options
    if kind == "meta" and name in ("nfproto", "protocol"):
        return traffic.family in options or {"ipv4": "ip", "ipv6": "ip6"}[traffic.family] in options
    if name in _PARTIAL_FIELDS:
        return False
    # Packets of nodes have no mark.
    masked = kind == "&" and isinstance(key, list) and "mark" in str(key[0])
    return 0 in options if masked or name == "mark" else None


def _any(results: Iterable[bool | None]) -> bool | None:
    """Return True if one is true, None if one may be."""
    seen = set(results)
    return True if True in seen else None if None in seen else False


def _same_link(link: str, pattern: Any) -> bool | None:
    if not isinstance(pattern, str):
        return None
    # The bridge of a new environment has a name that no link has now.
    return fnmatch.fnmatchcase(link, pattern) if link else None if "*" in pattern else False


def _contains(option: Any, traffic: Traffic) -> bool | None:
    """Return whether the networks of a match contain those of the traffic."""
    subnet = ipaddress.ip_network(traffic.subnet)
    prefix = option.get("prefix") if isinstance(option, dict) else None
    try:
        text = f"{prefix['addr']}/{prefix['len']}" if prefix else str(option)
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if not addresses.overlap(network, subnet):
        return False
    return True if network.prefixlen <= subnet.prefixlen else None


# --- this host --------------------------------------------------------------------------------------------------------


def traffic(subnets: Mapping[str, str], bridge: str, *, several: bool, root: Path = SYSCTLS) -> list[Traffic]:
    """Return the traffic of an environment that passes the hooks of this host: to other networks and, of ``several``
    nodes, between them.
    """
    outward = [Traffic(family, subnet, bridge, _uplink(family), False) for family, subnet in subnets.items()]
    return [*(between(subnets, bridge, root) if several else []), *outward]


def between(subnets: Mapping[str, str], bridge: str, root: Path = SYSCTLS) -> list[Traffic]:
    """Return the traffic between nodes in the families whose bridged packets pass the hooks of this host."""
    families = [family for family in subnets if sysctl_read(BRIDGED[family], root) == "1"]
    return [Traffic(family, subnets[family], bridge, bridge, True) for family in families]


def _uplink(family: str) -> str:
    output = program.run(["ip", "-json", f"-{family[-1]}", "route", "show", "default"], check=False).stdout
    return next((str(route.get("dev", "")) for route in json.loads(output or "[]")), "")


def probes(subnets: Mapping[str, str], bridge: str = "", *, several: bool) -> list[Probe]:
    """Check that no firewall of this host drops the nodes' traffic, apart from what `adjust` opens."""
    present, kinds = chains(ruleset()), traffic(subnets, bridge, several=several)
    results = []
    for between, name in ((True, "firewall between nodes"), (False, "firewall to other networks")):
        dropped = [each for kind in kinds if kind.between == between for each in obstacles(present, kind)]
        found = [each for each in dropped if not each.adjustable]
        seen, fix = "; ".join(map(str, found)) or "open", "; ".join(each.fix for each in found)
        results.append(Probe(name, not found, seen, "traffic of nodes passes", fix, "firewall_drops", required=between))
    return results


def adjust(environment: str, bridge: str, subnets: Mapping[str, str], *, several: bool) -> bool:
    """Accept the environment's traffic in docker's chain for rules of others, where that opens the path. Return whether
    rules were missing.
    """
    present = chains(ruleset())
    if not any(is_for_others(chain) for chain in present):
        return False
    kinds = traffic(subnets, bridge, several=several)
    found = [each for kind in kinds for each in obstacles(present, kind) if each.adjustable]
    for program_name in dict.fromkeys(each.chain.iptables for each in found):
        for words in _rules(environment, bridge):
            program.run([program_name, "--wait", "--insert", OTHERS_CHAIN, *words])
    return bool(found)


def _rules(environment: str, bridge: str) -> list[list[str]]:
    comment = ["-m", "comment", "--comment", f"devenv-{environment}", "-j", "ACCEPT"]
    answers = ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
    return [["-i", bridge, *comment], ["-o", bridge, *answers, *comment]]


def restore(environment: str) -> list[str]:
    """Remove the environment's rules from docker's chain; return what is worth a note."""
    removed = []
    used = [chain.iptables for chain in chains(ruleset()) if is_for_others(chain)]
    for name in used:
        for line in program.run([name, "--wait", "--list-rules", OTHERS_CHAIN], check=False).stdout.splitlines():
            if re.search(rf'--comment "?devenv-{re.escape(environment)}"?(\s|$)', line):
                program.run([name, "--wait", "--delete", *line.replace('"', "").split()[1:]])
                removed.append(f"{name} rule of {OTHERS_CHAIN}")
    return list(dict.fromkeys(removed))
