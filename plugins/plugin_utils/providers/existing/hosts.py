"""Hosts that exist already as nodes: looked at before the first change, given the bundle's programs and images once by
digest, and left as they were.

All hosts are worked on at once, over ssh; what runs on them is module_utils/existing/host.py.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan, PlannedNode
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import ByFamily, Endpoint, Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import node_recipe
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import ProvisionOutcome
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Answer, Target

MODULE = "existing.host"
INCOMING = "/var/lib/devenv/incoming"
LOOK_TIMEOUT = 30.0
WORK_TIMEOUT = 900.0
# What a node needs beside the bundle, by the name of the program and, where it differs, of Debian's package.
PROGRAMS: Mapping[str, str] = {
    "conntrack": "conntrack",
    "findmnt": "util-linux",
    "ip": "iproute2",
    "iptables": "iptables",
    "iptables-save": "iptables",
    "mount": "mount",
    "nft": "nftables",
    "python3": "python3",
    "runc": "runc",
    "systemctl": "systemd",
    "tar": "tar",
}
# A cluster with a virtual address moves it by these.
VIRTUAL_PROGRAMS: Mapping[str, str] = {"curl": "curl", "haproxy": "haproxy", "keepalived": "keepalived"}
MACHINES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Host:
    """A node of the profile and the ssh that reaches its host."""

    node: Mapping[str, Any]
    target: Target

    @property
    def name(self) -> str:
        return str(self.node["name"])


def owner(environment: str, home: str) -> dict[str, str]:
    """Whose a host is: what is noted on it and has to match before we change anything there again."""
    return {"environment": environment, "home": home, "controller": socket.gethostname()}


def network(resolved: Profile, previous: NetworkPlan | None) -> NetworkPlan:
    """network.yml: indexes as elsewhere, addresses as the hosts have them; hosts that leave stay until forgotten."""
    families = resolved["families"]
    known = (previous or network_plan.EMPTY)["nodes"]
    places = network_plan.indexes([node["name"] for node in resolved["nodes"]], previous)
    nodes: dict[str, PlannedNode] = {
        node["name"]: {
            "index": places[node["name"]],
            "mac": "",
            "addresses": dict(zip(families, node["host"]["addresses"], strict=True)),
            "group": node["group"],
            "cluster": node["cluster"],
            "host": {**node["host"]},
        }
        for node in resolved["nodes"]
    }
    return {
        "subnets": {},
        "gateways": {},
        "clusters": {
            name: {"index": place, "virtual": _virtual(one["endpoint"])}
            for place, (name, one) in enumerate(resolved["clusters"].items())
        },
        "nodes": nodes | {name: known[name] for name in network_plan.leaving(resolved, previous)},
    }


def _virtual(endpoint: Endpoint) -> ByFamily:
    if endpoint["kind"] != "virtual":
        return {}
    return {"ipv6" if ":" in address else "ipv4": address for address in endpoint["addresses"]}


# --- look ------------------------------------------------------------------------------------------------------------


def look(hosts: Sequence[Host], virtual: bool = False) -> dict[str, Answer]:
    """What each host tells of itself (module_utils/existing/host.py, ``look``), or why it does not. Changes nothing."""
    wanted = sorted({*PROGRAMS, *(VIRTUAL_PROGRAMS if virtual else {})})
    arguments = {"programs": wanted, "ours": list(node_recipe.PROGRAMS)}
    source = remote.program(MODULE, "look", arguments)
    return remote.ask_all([host.target for host in hosts], source, LOOK_TIMEOUT)


def require(hosts: Sequence[Host], seen: Mapping[str, Answer], mine: Mapping[str, str], engine: str) -> None:
    """Raise one DevenvError that names every host that cannot be used and why, with the reason of the first."""
    troubles: list[tuple[str, str]] = []
    for host in hosts:
        troubles += [
            (reason, f"{host.name}: {text}") for reason, text in _troubles(host, seen[host.name], mine, engine)
        ]
    troubles += [("host_unfit", text) for text in _same_host(hosts, seen)]
    if troubles:
        raise DevenvError(troubles[0][0], "; ".join(text for _reason, text in troubles))


def _troubles(host: Host, seen: Answer, mine: Mapping[str, str], engine: str) -> list[tuple[str, str]]:
    if seen.trouble:
        return [no_answer(host, seen.trouble)]
    data = seen.data
    if not data["root"]:
        return [("host_login", f"{host.node['host']['user']} is not root there; set become, or another user")]
    record = data["record"]
    if record and any(record.get(key) != value for key, value in mine.items()):
        whose = f"environment {record['environment']} of {record['controller']}:{record['home']}"
        return [("host_taken", f"belongs to {whose}")]
    if not record and (data["traces"] or "kubelet.service" in data["active"]):
        server = f" at {data['server']}" if data["server"] else ""
        traces = ", ".join(data["traces"] or ["kubelet runs"])
        return [("host_taken", f"is a node of another cluster{server} ({traces})")]
    return [("host_unfit", text) for text in _unfit(host, data, engine)]


def no_answer(host: Host, trouble: str) -> tuple[str, str]:
    """Reason and words for what ssh said. Its texts: https://man.openbsd.org/ssh (messages of OpenSSH 9)."""
    address, user = host.node["host"]["addresses"][0], host.node["host"]["user"]
    if re.search(r"Permission denied|Too many authentication failures|password is required|sudo:|sudoers", trouble):
        return "host_login", f"{user}@{address} is refused: {trouble}"
    if re.search(r"Host key verification failed|REMOTE HOST IDENTIFICATION|host key is known", trouble):
        return "host_key_unknown", f"{address}: {trouble}"
    return "host_unreachable", f"{address}, port {host.node['host']['port']}: {trouble}"


def _unfit(host: Host, data: Mapping[str, Any], engine: str) -> list[str]:
    faults = []
    if not data["systemd"]:
        faults.append("systemd is not its first process")
    if MACHINES.get(data["machine"]) != "amd64":
        faults.append(f"is {data['machine']}; the programs are for x86_64")
    packages = {**PROGRAMS, **VIRTUAL_PROGRAMS}
    if data["missing"]:
        install = " ".join(sorted({packages[name] for name in data["missing"]}))
        faults.append(f"lacks {', '.join(data['missing'])} (Debian: apt-get install {install})")
    if not data["record"]:
        runs = [unit for unit in data["active"] if unit != "kubelet.service"]
        faults += [f"{unit} runs already" for unit in runs]
        if data["taken_programs"]:
            faults.append(f"has its own {', '.join(data['taken_programs'])} in /usr/local/bin")
    missing = [address for address in host.node["host"]["addresses"] if address not in data["addresses"]]
    if missing:
        faults.append(f"has not the address {', '.join(missing)}")
    used = engines.in_use([host.node], engine)
    for key, words in (("memory", "memory"), ("disk", "free disk in /var/lib")):
        if data[key] < used[key]:
            faults.append(f"{words}: {data[key] >> 20} MiB, needed: {used[key] >> 20} MiB")
    return faults


def _same_host(hosts: Sequence[Host], seen: Mapping[str, Answer]) -> list[str]:
    """Two nodes at one host. Containers of one machine share its boot id, not their addresses."""
    owners: dict[tuple[str, tuple[str, ...]], str] = {}
    doubles = []
    for host in hosts:
        data = seen[host.name].data
        if not data:
            continue
        key = (data["boot_id"], tuple(sorted(a for a in data["addresses"] if a not in ("127.0.0.1", "::1"))))
        if key in owners:
            doubles.append(f"{host.name}: is the same host as {owners[key]}")
        owners.setdefault(key, host.name)
    return doubles


# --- deliver ---------------------------------------------------------------------------------------------------------


def deliver(hosts: Sequence[Host], bundle: Bundle, mine: Mapping[str, str], progress: Progress) -> ProvisionOutcome:
    """Bring the bundle's programs and images onto every host that has not got them. Raises DevenvError
    host_delivery_failed with the names of all hosts where it failed.
    """
    files = _parcel(bundle)
    size = sum(path.stat().st_size for path in (bundle.path / str(one["path"]) for one in files))
    progress(f"{len(hosts)} hosts: programs and images, {size >> 20} MiB each")

    def one_host(host: Host) -> str:
        def do(main: str, **arguments: Any) -> str:
            return _trouble(_ask([host], MODULE, main, mine, **arguments)[host.name])

        parcel = [(bundle.path / one["path"], one["path"]) for one in files]
        begun = do("begin") or remote.send(host.target, parcel, INCOMING)
        return begun or do("settle", digest=bundle.digest, files=files)

    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        troubles = dict(zip((host.name for host in hosts), pool.map(one_host, hosts), strict=True))
    _raise("host_delivery_failed", troubles)
    return _made(hosts)


def note(hosts: Sequence[Host], digest: str, mine: Mapping[str, str]) -> ProvisionOutcome:
    """Let hosts count as having the bundle with this digest. Raises DevenvError host_delivery_failed."""
    answers = _ask(hosts, MODULE, "note", mine, digest=digest)
    _raise("host_delivery_failed", {name: _trouble(one) for name, one in answers.items()})
    return _made(hosts)


def _made(hosts: Sequence[Host]) -> ProvisionOutcome:
    names = [host.name for host in hosts]
    return ProvisionOutcome(nodes=names, made=[*names])


def undelivered(hosts: Sequence[Host], seen: Mapping[str, Answer], digest: str) -> list[Host]:
    """The hosts that have not got the bundle with this digest."""
    return [host for host in hosts if seen[host.name].data.get("record", {}).get("digest") != digest]


def _parcel(bundle: Bundle) -> list[dict[str, str]]:
    """What goes onto a host: path in the bundle and sha256."""
    wanted = {f"bin/{name}" for name in node_recipe.PROGRAMS}
    return [
        {"path": one.path, "sha256": one.sha256}
        for one in bundle.manifest.files
        if one.path in wanted or one.path.startswith(("cni/", "images/"))
    ]


# --- reset -----------------------------------------------------------------------------------------------------------


def reset(hosts: Sequence[Host], mine: Mapping[str, str]) -> ProvisionOutcome:
    """Leave hosts as they were. One that is not ours any more is left alone. Raises DevenvError host_reset_failed with
    the names of all hosts that could not be reset.
    """
    answers = _ask(hosts, "existing.reset", "reset", mine)
    _raise("host_reset_failed", {name: _trouble(one) for name, one in answers.items()})
    return ProvisionOutcome(removed=sorted(name for name, one in answers.items() if one.data.get("changed")))


def _ask(hosts: Sequence[Host], module: str, main: str, mine: Mapping[str, str], **arguments: Any) -> dict[str, Answer]:
    source = remote.program(module, main, {"owner": dict(mine), **arguments})
    return remote.ask_all([host.target for host in hosts], source, WORK_TIMEOUT)


def _trouble(answer: Answer) -> str:
    return answer.trouble or str(answer.data.get("failed", ""))


def _raise(reason: str, troubles: Mapping[str, str]) -> None:
    texts = [f"{name}: {text}" for name, text in troubles.items() if text]
    if texts:
        raise DevenvError(reason, "; ".join(texts))
