"""The provider ``existing``: hosts of the profile as nodes. They are inspected before the first change, get the
bundle's binaries and images once per digest, and are restored to their original state in the end.

All hosts are handled at once, over ssh; module_utils/existing runs on them.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store as bundles
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan, PlannedNode
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses, engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import ByFamily, Endpoint, ExistingHost, Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base, loss, node_recipe
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import RUNNING, ProvisionOutcome, Request
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Answer

INCOMING = "/var/lib/devenv/incoming"
SURVEY_TIMEOUT = 30.0
WORK_TIMEOUT = 900.0
# What a node needs besides the bundle: programs with their Debian packages.
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
# A cluster with a virtual address moves it with these.
VIRTUAL_PROGRAMS: Mapping[str, str] = {"curl": "curl", "haproxy": "haproxy", "keepalived": "keepalived"}
# The control plane's proxy and its health page (roles/endpoint/defaults/main.yml).
VIRTUAL_PORTS = (8443, 8404)


class Provider(base.Provider):
    """Hosts of the profile, reached by ssh."""

    name: ClassVar[str] = "existing"
    failure: ClassVar[str] = "host_delivery_failed"

    def create(self, request: Request) -> ProvisionOutcome:
        answers = _inspect(request)
        lost = _lost(request, answers)
        if lost and not request.check:
            self.remove(request, loss.nodes_of(request, lost))
            members.discard(request.folder, lost)
            answers = _inspect(request)
        version = str(request.options["version"])
        bundle = bundles.find(version) if request.check else bundles.require(version)
        outdated = _outdated(answers, bundle.digest if bundle else "")
        if request.check or bundle is None:
            return ProvisionOutcome(nodes=[name for name in answers if name not in outdated], made=outdated)
        state.write_network(request.folder, network(request.profile, state.read_network(request.folder)))
        if outdated:
            _deliver(request, outdated, bundle)
        return ProvisionOutcome(nodes=request.nodes, made=outdated)

    def remove(self, request: Request, names: Sequence[str]) -> ProvisionOutcome:
        if request.check or not names:
            return ProvisionOutcome(removed=list(names))
        request.say(f"{len(names)} hosts: remove what devenv installed")
        answers = _run(request, names, "reset", owner=_owner(request))
        _raise_troubles("host_reset_failed", {name: _trouble(answer) for name, answer in answers.items()})
        return ProvisionOutcome(removed=sorted(name for name, answer in answers.items() if answer.data.get("changed")))

    def destroy(self, request: Request) -> ProvisionOutcome:
        # network.yml is written before the first host is changed: without it, no host needs a reset.
        plan = state.read_network(request.folder) or network_plan.EMPTY
        return self.remove(request, [name for name in plan["nodes"] if name in request.hostvars])

    def states(self, request: Request) -> dict[str, str]:
        owner, records = _owner(request), {name: _record(answer) for name, answer in _survey(request).items()}
        return {
            name: RUNNING
            for name, record in records.items()
            if record.get("digest") and owner.items() <= record.items()
        }

    def upgraded(self, request: Request) -> ProvisionOutcome:
        digest = bundles.require(str(request.options["version"])).digest
        outdated = _outdated(_survey(request), digest)
        if outdated and not request.check:
            answers = _run(request, outdated, "set_digest", owner=_owner(request), digest=digest)
            _raise_troubles("host_delivery_failed", {name: _trouble(answer) for name, answer in answers.items()})
        return ProvisionOutcome(nodes=request.nodes, made=outdated)

    def preflight(self, request: Request) -> list[Probe]:
        """Raise one DevenvError that names every unusable host and why."""
        _lost(request, _inspect(request))
        return []


def network(profile: Profile, previous: NetworkPlan | None) -> NetworkPlan:
    """Return network.yml: indexes as with other providers, addresses of the hosts. Leaving hosts stay until they are
    forgotten.
    """
    indexes = network_plan.indexes([node["name"] for node in profile["nodes"]], previous)
    nodes: dict[str, PlannedNode] = {
        node["name"]: {
            "index": indexes[node["name"]],
            "mac": "",
            "addresses": dict(zip(profile["families"], node["host"]["addresses"], strict=True)),
            "group": node["group"],
            "cluster": node["cluster"],
            "host": {**node["host"]},
        }
        for node in profile["nodes"]
    }
    before = (previous or network_plan.EMPTY)["nodes"]
    return {
        "subnets": {},
        "gateways": {},
        "clusters": {
            name: {"index": index, "virtual": _virtual(cluster["endpoint"])}
            for index, (name, cluster) in enumerate(profile["clusters"].items())
        },
        "nodes": nodes | {name: before[name] for name in network_plan.leaving(profile, previous)},
    }


def _virtual(endpoint: Endpoint) -> ByFamily:
    if endpoint["kind"] != "virtual":
        return {}
    return {addresses.family_of(address): address for address in endpoint["addresses"]}


# --- programs on the hosts --------------------------------------------------------------------------------------------


def _target(request: Request, name: str) -> remote.Target:
    return remote.target(name, request.hostvars[name], own_connection=True)


def _owner(request: Request) -> dict[str, str]:
    """Return the owner in a host's record; it must match before devenv changes anything there again."""
    return {"environment": request.environment, "home": request.home, "controller": socket.gethostname()}


def _run(
    request: Request, names: Sequence[str], step: str, timeout: float = WORK_TIMEOUT, **arguments: Any
) -> dict[str, Answer]:
    """Run a step of module_utils/existing on the hosts."""
    module = "existing.reset" if step == "reset" else "existing.host"
    source = remote.program(module, "run", {"step": step, **arguments})
    return remote.ask_all([_target(request, name) for name in names], source, timeout)


def _record(answer: Answer) -> Mapping[str, str]:
    record: Mapping[str, str] = answer.data.get("record", {})
    return record


def _outdated(answers: Mapping[str, Answer], digest: str) -> list[str]:
    """Return the hosts without the bundle of this digest."""
    return [name for name, answer in answers.items() if not digest or _record(answer).get("digest") != digest]


def _trouble(answer: Answer) -> str:
    return answer.trouble or str(answer.data.get("failed", ""))


def _raise_troubles(reason: str, troubles: Mapping[str, str]) -> None:
    """Raise one DevenvError that names all hosts with trouble."""
    texts = [f"{name}: {text}" for name, text in troubles.items() if text]
    if texts:
        raise DevenvError(reason, "; ".join(texts))


def _deliver(request: Request, names: Sequence[str], bundle: bundles.Bundle) -> None:
    """Install the bundle's binaries and images on the hosts. Raises DevenvError ``host_delivery_failed``."""
    binaries = {f"bin/{name}" for name in node_recipe.PROGRAMS}
    entries = [
        {"path": file.path, "sha256": file.sha256}
        for file in bundle.manifest.files
        if file.path in binaries or file.path.startswith(("cni/", "images/"))
    ]
    parcel = [(bundle.path / entry["path"], entry["path"]) for entry in entries]
    size = sum(path.stat().st_size for path, _name in parcel)
    request.say(f"{len(names)} hosts: binaries and images, {size >> 20} MiB each")

    def deliver(name: str) -> str:
        def run(step: str, **arguments: Any) -> str:
            return _trouble(_run(request, [name], step, **arguments)[name])

        trouble = run("prepare", owner=_owner(request)) or remote.send(_target(request, name), parcel, INCOMING)
        return trouble or run("install", digest=bundle.digest, entries=entries)

    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        troubles = dict(zip(names, pool.map(deliver, names), strict=True))
    _raise_troubles("host_delivery_failed", troubles)


# --- inspection -------------------------------------------------------------------------------------------------------


def _survey(request: Request) -> dict[str, Answer]:
    """Return the state of each host (module_utils/existing/host.py), or why it is unknown."""
    virtual = any(cluster["endpoint"]["kind"] == "virtual" for cluster in request.profile["clusters"].values())
    programs = sorted({*PROGRAMS, *(VIRTUAL_PROGRAMS if virtual else ())})
    return _run(request, request.nodes, "survey", SURVEY_TIMEOUT, programs=programs, binaries=node_recipe.PROGRAMS)


def _inspect(request: Request) -> dict[str, Answer]:
    answers = _survey(request)
    require(request.hostvars, answers, _owner(request), request.profile["kubernetes"]["engine"])
    return answers


def _lost(request: Request, answers: Mapping[str, Answer]) -> list[str]:
    """Return the clusters whose hosts no longer have what devenv installed; see `loss.clusters`."""
    return loss.clusters(request, [name for name, answer in answers.items() if _record(answer)])


def require(
    hostvars: Mapping[str, Mapping[str, Any]], answers: Mapping[str, Answer], owner: Mapping[str, str], engine: str
) -> None:
    """Raise one DevenvError that names every unusable host and why, with the reason of the first."""
    faults: list[tuple[str, str]] = []
    for name, answer in answers.items():
        variables = hostvars[name]
        needed = engines.in_use([{"group": variables["devenv_group"]}], engine)
        host_faults = _faults(variables["devenv_host"], answer, owner, needed, ports_of(variables, engine))
        faults += [(reason, f"{name}: {text}") for reason, text in host_faults]
    faults += [("host_unfit", text) for text in _duplicates(answers)]
    if faults:
        raise DevenvError(faults[0][0], "; ".join(text for _reason, text in faults))


def ports_of(variables: Mapping[str, Any], engine: str) -> list[int]:
    """Return the TCP ports on which the node will listen."""
    group = variables["devenv_group"]
    proxy = VIRTUAL_PORTS if group == "control_plane" and variables.get("devenv_endpoint_kind") == "virtual" else ()
    return [*engines.group_of(group, engines.traits(engine))["ports"], *proxy]


def _faults(
    host: ExistingHost, answer: Answer, owner: Mapping[str, str], needed: Mapping[str, int], ports: Sequence[int]
) -> list[tuple[str, str]]:
    if answer.trouble:
        return [no_answer(host, answer.trouble)]
    data, record = answer.data, _record(answer)
    if not data["root"]:
        return [("host_login", f"{host['user']} is not root there; set become, or another user")]
    if record and not owner.items() <= record.items():
        place = f"{record['controller']}:{record['home']}"
        return [("host_taken", f"belongs to environment {record['environment']} of {place}")]
    if not record and (data["traces"] or "kubelet.service" in data["active"]):
        server = f" at {data['server']}" if data["server"] else ""
        traces = ", ".join(data["traces"] or ["kubelet runs"])
        return [("host_taken", f"is a node of another cluster{server} ({traces})")]
    texts = [*_breaking(answer.greeting), *_unfit(host, data, needed, ports)]
    return [("host_unfit", text) for text in texts]


def _breaking(greeting: str) -> Iterator[str]:
    """Yield a message if Ansible would take what the host's shell prints for a part of a module's result."""
    if greeting and (not greeting.endswith("\n") or re.search(r"^\s*\{", greeting, re.MULTILINE)):
        shown = " ".join(greeting.split())[-80:]
        yield f"its shell prints '{shown}' before each command; print that only if it is interactive ([[ $- == *i* ]])"


def no_answer(host: ExistingHost, trouble: str) -> tuple[str, str]:
    """Return reason and message for an error of ssh. Its texts: https://man.openbsd.org/ssh (OpenSSH 9)."""
    address, user = host["addresses"][0], host["user"]
    if re.search(r"Permission denied|Too many authentication failures|password is required|sudo:|sudoers", trouble):
        return "host_login", f"{user}@{address} is refused: {trouble}"
    if re.search(r"Host key verification failed|REMOTE HOST IDENTIFICATION|host key is known", trouble):
        return "host_key_unknown", f"{address}: {trouble}"
    return "host_unreachable", f"{address}, port {host['port']}: {trouble}"


def _unfit(
    host: ExistingHost, data: Mapping[str, Any], needed: Mapping[str, int], ports: Sequence[int]
) -> Iterator[str]:
    if not data["systemd"]:
        yield "systemd is not its first process"
    if data["machine"] != "x86_64":
        yield f"is {data['machine']}; the binaries are for x86_64"
    if data["missing"]:
        packages = {**PROGRAMS, **VIRTUAL_PROGRAMS}
        install = " ".join(sorted({packages[name] for name in data["missing"]}))
        yield f"lacks {', '.join(data['missing'])} (Debian: apt-get install {install})"
    if not data["record"]:
        yield from (f"{unit} is running" for unit in data["active"])
        if data["foreign_binaries"]:
            yield f"has its own {', '.join(data['foreign_binaries'])} in /usr/local/bin"
        used = {port: data["ports"][str(port)] for port in ports if str(port) in data["ports"]}
        yield from (f"port {port} is in use" + (f" by {process}" if process else "") for port, process in used.items())
    missing = [address for address in host["addresses"] if address not in data["addresses"]]
    if missing:
        yield f"does not have the address {', '.join(missing)}"
    for key, label in (("memory", "memory"), ("disk", "free disk in /var/lib")):
        if data[key] < needed[key]:
            yield f"{label}: {data[key] >> 20} MiB, needed: {needed[key] >> 20} MiB"


def _duplicates(answers: Mapping[str, Answer]) -> Iterator[str]:
    """Yield a message for each node on the host of another one. Containers of one machine share its boot id, but not
    their addresses.
    """
    nodes: dict[tuple[str, frozenset[str]], str] = {}
    for name, answer in answers.items():
        if answer.data:
            host = (answer.data["boot_id"], frozenset(answer.data["addresses"]) - {"127.0.0.1", "::1"})
            if nodes.setdefault(host, name) != name:
                yield f"{name}: is the same host as {nodes[host]}"
