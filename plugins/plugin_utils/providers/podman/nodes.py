"""Nodes as podman containers: make, start, stop, end, and their network on this host.

Everything is found by labels, so an environment can be taken down without its state folder. Names and subnets are
machine-wide: whoever chooses holds the allocator lock.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp
from ansible_collections.devenv.lab.plugins.plugin_utils.host import probes as host
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import driver as libvirt
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import image as node_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman.cli import (
    ENVIRONMENT_LABEL,
    HOME_LABEL,
    NODE_LABEL,
    Container,
    Network,
    containers,
    create_network,
    networks,
    podman,
)

ALLOCATOR = paths.LOCKS / "allocator.lock"
# On a tmpfs, as the values it holds do not outlive a reboot either.
SYSCTL_RECORD = Path("/run/devenv/host-sysctls.json")

# A node's folders that live outside its root: overlay on overlay does not work, and they are large.
DATA = {"containerd": "/var/lib/containerd", "kubelet": "/var/lib/kubelet", "etcd": "/var/lib/etcd"}


@dataclass
class Outcome:
    """What a call changed, for people (``notes``) and for Ansible (``changed``)."""

    made: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.made or self.started or self.stopped or self.removed)


def status(states: Mapping[str, str], wanted: Sequence[str], *, would_create: bool) -> dict[str, Any]:
    """A provider's answer to ``status``, and in check mode to ``create``: ``states`` of the nodes that are there,
    ``wanted`` those of the profile.
    """
    missing = [node for node in wanted if states.get(node) != "running"]
    made = would_create and bool(missing)
    return {
        "changed": made,
        "nodes": [node for node, state in states.items() if state == "running"],
        "states": dict(states),
        "missing": missing,
        "notes": [f"would be made or started: {', '.join(missing)}"] if made else [],
    }


def network_name(environment: str) -> str:
    return f"devenv-{environment}"


def container_name(environment: str, node: str) -> str:
    return f"{environment}-{node}"


def subnets_in_use() -> list[str]:
    """Subnets that a new environment keeps away from: other environments', podman's, every route of this host."""
    # A host that has nodes as virtual machines alone needs no podman.
    taken = [subnet for network in (networks() if shutil.which("podman") else []) for subnet in network.subnets]
    taken += [subnet for network in libvirt.networks() for subnet in network.subnets]
    for family in ("-4", "-6"):
        for route in json.loads(program.run(["ip", "-json", family, "route", "show", "table", "all"]).stdout or "[]"):
            target = route.get("dst", "default")
            if target != "default" and route.get("type", "unicast") == "unicast":
                taken.append(target)
    return taken


def others(environment: str) -> list[Container | Network]:
    """What podman knows of the environment."""
    return [*networks(environment), *containers(environment)] if shutil.which("podman") else []


def owner_conflict(found: Sequence[Container | Network], environment: str, home: str) -> None:
    """Names are machine-wide: refuse one that another DEVENV_HOME has taken."""
    for item in found:
        if item.home != home:
            raise DevenvError(
                "name_taken",
                f"the environment {environment} of this machine belongs to {item.home}",
                advice=f"Choose another name with --name, or work with DEVENV_HOME={item.home}.",
            )


def claim(
    environment: str, home: str, resolved: Mapping[str, Any], previous: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Choose subnets, make them real as a labelled network, and return the plan of addresses (``network.yml``)."""
    with files.exclusive(ALLOCATOR):
        mine = networks(environment)
        owner_conflict([*mine, *containers(environment), *libvirt.networks(environment)], environment, home)
        families = resolved["families"]
        if mine:
            network = mine[0]
            subnets = {_family(subnet): subnet for subnet in network.subnets}
        else:
            subnets = choose_subnets(resolved, previous)
            network = create_network(network_name(environment), environment, home, [subnets[f] for f in families])
    plan = addresses.plan(resolved, subnets, previous)
    plan["bridge"] = network.bridge
    return plan


def choose_subnets(resolved: Mapping[str, Any], previous: Mapping[str, Any] | None) -> dict[str, str]:
    """A free subnet of each family, by preference those of ``previous`` (network.yml)."""
    used = subnets_in_use()
    wanted = dict((previous or {}).get("subnets", {}))
    if wanted and not any(_overlaps(subnet, used) for subnet in wanted.values()):
        return wanted
    lengths = addresses.prefixes(resolved["network"])
    return addresses.choose(resolved["network"]["node_pools"], used, resolved["families"], lengths)


def _family(subnet: str) -> str:
    return f"ipv{ipaddress.ip_interface(subnet).version}"


def _overlaps(subnet: str, used: Sequence[str]) -> bool:
    net = ipaddress.ip_network(subnet)
    others = (ipaddress.ip_network(other, strict=False) for other in used)
    return any(other.version == net.version and net.overlaps(other) for other in others)


@dataclass(frozen=True)
class Node:
    """What the provider needs of a node. ``addresses`` with prefix length; memory in bytes. With ``dhcp`` the node
    asks for its addresses, and is given these.
    """

    name: str
    cpus: float
    memory: int
    mac: str
    addresses: Sequence[str]
    gateways: Sequence[str]
    dhcp: bool = False

    @property
    def families(self) -> list[str]:
        return [_family(address) for address in self.addresses]


def node_specs(resolved: Mapping[str, Any], plan: Mapping[str, Any]) -> list[Node]:
    """Nodes of the profile with their addresses in the stack's order."""
    specs = []
    for node in resolved["nodes"]:
        claimed = plan["nodes"][node["name"]]
        with_prefix = [
            f"{claimed['addresses'][family]}/{plan['subnets'][family].split('/')[1]}" for family in resolved["families"]
        ]
        specs.append(
            Node(
                name=node["name"],
                cpus=node["cpus"],
                memory=node["memory"],
                mac=claimed["mac"],
                addresses=with_prefix,
                gateways=[plan["gateways"][family] for family in resolved["families"]],
                dhcp=resolved["addressing"] == "dhcp",
            )
        )
    return specs


def create(
    environment: str,
    home: str,
    state: Path,
    nodes: Sequence[Node],
    plan: Mapping[str, Any],
    image: str,
    store: Path,
    progress: Callable[[str], None],
    stores: Mapping[str, Path] | None = None,
) -> Outcome:
    """Make what is missing, start what is stopped, make anew what cannot start; leave what runs alone. ``stores`` has
    the image stores of nodes that get another than ``store``.
    """
    store_of = {node.name: (stores or {}).get(node.name, store) for node in nodes}
    outcome = Outcome()
    there = {container.node: container for container in containers(environment)}
    missing = [node for node in nodes if node.name not in there or there[node.name].state != "running"]
    if missing:
        progress(f"nodes: {', '.join(node.name for node in missing)}")
    gone = [node for node in missing if node.name not in there]
    with ThreadPoolExecutor(max_workers=8) as pool:
        outcome.notes += filter(None, pool.map(lambda node: _make_data(state, node, store_of[node.name]), gone))

    def bring_up(node: Node) -> None:
        if node not in gone:
            container = there[node.name]
            if program.run(["podman", "start", container.name], check=False, timeout=60).code == 0:
                outcome.started.append(node.name)
                return
            podman("rm", "--force", "--time", "0", container.name)
            _make_data(state, node, store_of[node.name])
            outcome.notes.append(f"{node.name} could not start and was made anew")
        podman(*run_arguments(environment, home, state, node, image), timeout=180)
        outcome.made.append(node.name)

    # First, so that a node's first question for its addresses or its router is answered.
    host_side_set = set_up_host_side(environment, state, plan, nodes)
    if missing:
        with _host_settings_kept(), ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(bring_up, missing))
        # The bridge goes with its last node, and one that could not start was made anew.
        host_side_set |= set_up_host_side(environment, state, plan, nodes)
    for names in (outcome.made, outcome.started):
        names.sort()
    if host_side_set:
        outcome.notes.append("host side of the network set")
    wait_for_ssh(nodes)
    return outcome


def _make_data(state: Path, node: Node, store: Path) -> str:
    """Make a new node's folders; return what is worth telling, or nothing."""
    data = state / "nodes" / node.name
    shutil.rmtree(data, ignore_errors=True)
    linked = node_image.copy_store(store, data / "containerd")
    for folder in DATA:
        (data / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    return "" if linked else f"{node.name}: state and cache lie on different filesystems, the image store was copied"


@contextlib.contextmanager
def _host_settings_kept() -> Iterator[None]:
    """While nodes start: what they will change of the host is on record, what podman changes is put back."""
    with files.exclusive(ALLOCATOR):
        host.record_sysctls(SYSCTL_RECORD)
        with host.kept(host.FORWARDING_SYSCTLS):
            yield


def run_arguments(environment: str, home: str, state: Path, node: Node, image: str) -> list[str]:
    """Arguments of ``podman`` that make one node."""
    name = container_name(environment, node.name)
    volumes = [f"--volume={state / 'nodes' / node.name / folder}:{target}" for folder, target in DATA.items()]
    return [
        "run", "--detach", "--name", name, "--hostname", node.name, *node_image.RUNTIME_FLAGS,
        "--systemd=always", "--stop-signal=SIGRTMIN+3",
        "--tmpfs=/run:rw,mode=755", "--tmpfs=/tmp:rw,mode=1777", "--no-hosts",
        f"--network={network_name(environment)}:mac={node.mac}",
        f"--memory={node.memory}", f"--cpus={node.cpus}", "--log-driver=none",
        f"--label={ENVIRONMENT_LABEL}={environment}", f"--label={NODE_LABEL}={node.name}",
        f"--label={HOME_LABEL}={home}",
        *(f"--env={name}={' '.join(words)}" for name, words in network_variables(node).items()),
        f"--volume={state / 'ssh' / 'hosts' / node.name}:/etc/devenv/ssh:ro",
        *volumes, image, "/usr/local/sbin/node-init",
    ]  # fmt: skip


def network_variables(node: Node) -> dict[str, list[str]]:
    """What files/node-init reads: names of variables to words."""
    variables = {"DEVENV_FAMILIES": node.families}
    if node.dhcp:
        return variables | {"DEVENV_DHCP": node.families}
    return variables | {"DEVENV_ADDRESSES": list(node.addresses), "DEVENV_GATEWAYS": list(node.gateways)}


def bridge_mac(plan: Mapping[str, Any]) -> str:
    """The bridge's MAC, from the subnet: a bridge without one takes its lowest port's, which comes and goes."""
    subnet = next(iter(plan["subnets"].values()))
    tail = ipaddress.ip_network(subnet).network_address.packed[:4] if ":" not in subnet else b""
    packed = tail or ipaddress.ip_network(subnet).network_address.packed[4:8]
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x55, *packed))


def set_up_host_side(environment: str, state: Path, plan: Mapping[str, Any], nodes: Sequence[Node]) -> bool:
    """Bridge, nft table and, for nodes that ask for their addresses, DHCP. Return whether anything was missing."""
    changed = set_up_host_network(environment, plan)
    if any(node.dhcp for node in nodes):
        changed |= dhcp.serve(environment, state, plan)
    return changed


def _make_bridge(bridge: str, mac: str) -> None:
    """Make the link that podman would make with the first node. It takes no router's word: a node may speak as one."""
    program.run(["ip", "link", "add", "name", bridge, "address", mac, "type", "bridge"])
    for name in ("accept_dad", "accept_ra", "autoconf"):
        setting = Path("/proc/sys/net/ipv6/conf", bridge, name)
        if setting.exists():
            setting.write_text("0")


def set_up_host_network(environment: str, plan: Mapping[str, Any]) -> bool:
    """Have the bridge with its MAC and gateway addresses, and the nft table: podman drops the bridge with its last
    node.
    """
    bridge = plan["bridge"]
    if not Path("/sys/class/net", bridge).exists():
        _make_bridge(bridge, bridge_mac(plan))
    shown = json.loads(program.run(["ip", "-json", "address", "show", "dev", bridge]).stdout)[0]
    seen = set(_local(shown))
    wanted = {f"{plan['gateways'][family]}/{subnet.split('/')[1]}" for family, subnet in plan["subnets"].items()}
    changed = False
    if shown["address"] != bridge_mac(plan):
        program.run(["ip", "link", "set", "dev", bridge, "address", bridge_mac(plan)])
        changed = True
    if "UP" not in shown["flags"]:
        program.run(["ip", "link", "set", "dev", bridge, "up"])
        changed = True
    for address in sorted(wanted - seen):
        nodad = ["nodad"] if ":" in address else []
        program.run(["ip", "address", "replace", address, "dev", bridge, *nodad])
        changed = True
    table = f"devenv-{environment}"
    if program.run(["nft", "list", "table", "inet", table], check=False).code != 0:
        program.run(["nft", "--file", "-"], stdin=nft_table(table, bridge, plan["subnets"]))
        changed = True
    return changed


def host_side(environment: str, bridge: str) -> dict[str, str]:
    """What `set_up_host_side` looks after, as texts to compare with those of another time."""
    shown = program.run(["ip", "-json", "address", "show", "dev", bridge], check=False).stdout
    links = json.loads(shown or "[]")
    return {
        "bridge": json.dumps([[link["address"], link["flags"], _local(link)] for link in links], sort_keys=True),
        "nft table": program.run(["nft", "list", "table", "inet", f"devenv-{environment}"], check=False).stdout,
        "DHCP": " ".join(sorted(dhcp.servers(environment).values())),
    }


def _local(link: Mapping[str, Any]) -> list[str]:
    return sorted(f"{row['local']}/{row['prefixlen']}" for row in link["addr_info"])


def nft_table(table: str, bridge: str, subnets: Mapping[str, str]) -> str:
    """The one nft table of an environment: what leaves the bridge goes out under the host's address."""
    rules = [
        f'    {"ip" if family == "ipv4" else "ip6"} saddr {subnet} oifname != "{bridge}" masquerade'
        for family, subnet in subnets.items()
    ]
    return "\n".join(
        [
            f"table inet {table} {{",
            "  chain postrouting {",
            "    type nat hook postrouting priority srcnat; policy accept;",
            *rules,
            "  }",
            "}",
            "",
        ]
    )


def wait_for_ssh(nodes: Sequence[Node], limit: float = 60, patience: float = 2, pause: float = 0.05) -> None:
    """Wait until every address of every node greets as an ssh server; name the silent ones after ``limit`` s.
    ``patience`` is how long one greeting may take: each attempt costs the node a process.
    """
    deadline = time.monotonic() + limit
    targets = [(node.name, address.split("/")[0]) for node in nodes for address in node.addresses]

    def greets(target: tuple[str, str]) -> str | None:
        name, address = target
        while time.monotonic() < deadline:
            try:
                with socket.create_connection((address, 22), timeout=2) as connection:
                    connection.settimeout(patience)
                    if connection.recv(4) == b"SSH-":
                        return None
            except OSError:
                time.sleep(pause)
        return f"{name} ({address})"

    with ThreadPoolExecutor(max_workers=max(1, len(targets))) as pool:
        silent = [name for name in pool.map(greets, targets) if name]
    if silent:
        raise DevenvError("node_no_ssh", f"no answer from ssh within {limit:.0f} s: {', '.join(silent)}")


def start(environment: str, state: Path, plan: Mapping[str, Any], nodes: Sequence[Node]) -> Outcome:
    """Start the nodes that are stopped, all at once."""
    outcome = Outcome()
    halted = [container for container in containers(environment) if container.state != "running"]
    set_up_host_side(environment, state, plan, nodes)
    if halted:
        with _host_settings_kept():
            podman("start", *(container.name for container in halted), timeout=120)
        outcome.started = [container.node for container in halted]
        set_up_host_side(environment, state, plan, nodes)
    wait_for_ssh(nodes)
    return outcome


def stop(environment: str, grace: int = 30) -> Outcome:
    """Stop the nodes as a shutdown would, all at once; ``grace`` in seconds, then they are killed."""
    outcome = Outcome()
    running = [container for container in containers(environment) if container.state == "running"]
    if running:
        with ThreadPoolExecutor(max_workers=len(running)) as pool:
            list(pool.map(lambda c: podman("stop", "--time", str(grace), c.name, timeout=grace + 60), running))
        outcome.stopped = [container.node for container in running]
    # Its bridge went with the last node.
    dhcp.end(environment)
    return outcome


def destroy(environment: str) -> Outcome:
    """Remove everything that carries the environment's label, and what only this host remembers of it."""
    outcome = Outcome()
    found = containers(environment)
    if found:
        podman("rm", "--force", "--time", "0", *(container.name for container in found), timeout=120)
        outcome.removed = [container.node for container in found]
    if dhcp.end(environment):
        outcome.removed.append("DHCP server")
    with files.exclusive(ALLOCATOR):
        known = networks(environment)
        # The links first: without the network nobody would know their names. The table also when the network is lost.
        outcome.removed += remove_host_side(environment, [network.bridge for network in known])
        for network in known:
            podman("network", "rm", "--force", network.name)
            outcome.removed.append(network.name)
        if not containers() and SYSCTL_RECORD.exists():
            restored = host.restore_sysctls(SYSCTL_RECORD)
            if restored:
                outcome.notes.append(f"put back on the host: {', '.join(restored)}")
    return outcome


def remove_host_side(environment: str, bridges: Iterable[str]) -> list[str]:
    """Remove bridges and nft table of an environment; return what is worth telling."""
    for bridge in bridges:
        if program.run(["ip", "link", "show", "dev", bridge], check=False).code == 0:
            program.run(["ip", "link", "delete", "dev", bridge])
    table = f"devenv-{environment}"
    if program.run(["nft", "list", "table", "inet", table], check=False).code != 0:
        return []
    program.run(["nft", "delete", "table", "inet", table])
    return [f"nft table {table}"]


def remove_nodes(environment: str, state: Path, names: Sequence[str]) -> Outcome:
    """End single nodes of an environment, with their data."""
    outcome = Outcome()
    found = [container for container in containers(environment) if container.node in names]
    if found:
        podman("rm", "--force", "--time", "0", *(container.name for container in found))
        outcome.removed = [container.node for container in found]
    for name in names:
        shutil.rmtree(state / "nodes" / name, ignore_errors=True)
    return outcome
