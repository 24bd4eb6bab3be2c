"""Providers that make machines on this host: claims of names and subnets, the environment's network, common steps.

Names and subnets are machine-wide: an environment must not take those of another one, whoever created it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, network_plan, ssh_keys, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import nodes as environment_nodes
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp, firewall, network, probes, publish, quotas
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses, data, engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Node, Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import loss, preflight, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import (
    RUNNING,
    UNREADABLE,
    Machine,
    Provider,
    ProvisionOutcome,
    Request,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.reachable import wait_for_ssh


class MachineProvider(Provider, Protocol):
    """A provider whose nodes are machines on this host, on one bridge per environment."""

    # --- what a provider adds ---

    def bring_up(
        self, request: Request, plan: NetworkPlan, nodes: Sequence[NodeSpec], outcome: ProvisionOutcome, *, create: bool
    ) -> None:
        """Start the stopped machines of ``nodes`` and, with ``create``, create the missing ones; extend ``outcome``."""

    def shut_down(self, environment: str, running: Sequence[Machine], grace: int) -> list[str]:
        """Shut machines down, and switch off those that still run after ``grace`` seconds. Return notes."""

    def discard(self, environment: str, machines: Sequence[Machine]) -> None:
        """Remove machines. Their data in the state directory is removed afterwards."""

    def discard_all(self, environment: str, machines: Sequence[Machine]) -> None:
        """Remove all machines of an environment; works without the state directory."""
        if machines:
            self.discard(environment, machines)

    def claim_network(self, environment: str, home: str, subnets: Sequence[str]) -> Network:
        """Make a claim visible to every run on this machine; called under the allocator lock."""

    def release_network(self, environment: str, networks: Sequence[Network]) -> list[str]:
        """Withdraw the environment's claim; called under the allocator lock. Return notes."""

    def bridges(self, environment: str) -> list[str]:
        """Return the names of the environment's bridges."""
        return [claimed.bridge for claimed in self.networks(environment)]

    def required_programs(self, profile: Profile) -> Mapping[str, str]:
        """Return the programs that this profile needs, with their Debian packages."""
        return self.programs

    def software_probes(self) -> list[Probe]:
        """Check software that is not a program, before anything else is checked."""
        return []

    def intact(self, request: Request, existing: Sequence[Machine]) -> set[str]:
        """Return the nodes whose data exist, with or without their machine."""

    def volumes(self, request: Request, node: str) -> list[str]:
        """Return the names of the persistent volumes in a node's data, if this host can read them."""
        return []

    def capacity_probes(self, profile: Profile, missing: Sequence[Mapping[str, Any]]) -> list[Probe]:
        """Check whether this host has room for the missing nodes of the profile."""

    def wait(self, request: Request, nodes: Sequence[NodeSpec]) -> None:
        """Wait until every node answers ssh. Raises DevenvError ``node_no_ssh``."""
        wait_for_ssh(ssh_targets(nodes))

    # --- what all of them do ---

    def create(self, request: Request) -> ProvisionOutcome:
        clusters = self._lost(request, self.machines(request.environment))
        if clusters:
            self.remove(request, loss.nodes_of(request, clusters))
            members.discard(request.folder, filter(None, clusters))
        return self._converge(request, create=True)

    def start(self, request: Request) -> ProvisionOutcome:
        return self._converge(request, create=False)

    def _lost(self, request: Request, existing: Sequence[Machine]) -> Sequence[str | None]:
        """Return the clusters that can only be created again (None: bare nodes). Raises DevenvError ``cluster_lost``,
        ``quorum_lost`` or ``state_lost`` unless the run accepts it.
        """
        if existing and state.read_network(request.folder) is None:
            if not request.recreate:
                names = ", ".join(machine.node for machine in existing)
                raise DevenvError("state_lost", f"{names}: the keys and records in {request.folder} are gone")
            return [*request.profile["clusters"], None]
        return loss.clusters(request, self.intact(request, existing), self.volumes)

    def _converge(self, request: Request, *, create: bool) -> ProvisionOutcome:
        plan = claim(self, request)
        nodes = environment_nodes.planned(request.profile, plan)
        outcome = ProvisionOutcome()
        running = self._running(request.environment)
        stopped = [node for node in nodes if node.name not in running]
        serve_dhcp = any(node.dhcp for node in nodes)

        def set_up_network() -> bool:
            repaired = network.set_up(request.environment, request.folder, plan, serve_dhcp=serve_dhcp)
            published = publish.ports(request.profile, plan)
            return publish.set_up(request.environment, request.folder, plan["bridge"], published) or repaired

        # Before the nodes start, so that a node's first request for an address or a router is answered.
        repaired = set_up_network()
        if stopped:
            if create:
                request.say(f"nodes: {', '.join(node.name for node in stopped)}")
            self.bring_up(request, plan, stopped, outcome, create=create)
            # A program may delete the bridge with its last node, and a node that could not start was replaced.
            repaired |= set_up_network()
        for names in (outcome.made, outcome.started):
            names.sort()
        # The network of a new environment is created, not repaired.
        if repaired and create and len(outcome.made) < len(nodes):
            outcome.notes.append("network of this host repaired")
        self.wait(request, nodes)
        return outcome

    def _running(self, environment: str) -> dict[str, Machine]:
        return {machine.node: machine for machine in self.machines(environment) if machine.state == RUNNING}

    def stop(self, request: Request, grace: int) -> ProvisionOutcome:
        running = self._running(request.environment)
        outcome = ProvisionOutcome(stopped=list(running))
        if running:
            outcome.notes += self.shut_down(request.environment, list(running.values()), grace)
        dhcp.stop(request.environment)
        return outcome

    def remove(self, request: Request, names: Sequence[str]) -> ProvisionOutcome:
        leaving = [machine for machine in self.machines(request.environment) if machine.node in names]
        if leaving:
            self.discard(request.environment, leaving)
        for name in names:
            quotas.remove(request.folder / "nodes" / name)
        return ProvisionOutcome(removed=[machine.node for machine in leaving])

    def destroy(self, request: Request) -> ProvisionOutcome:
        environment = request.environment
        machines = self.machines(environment)
        outcome = ProvisionOutcome(removed=[machine.node for machine in machines], notes=_unreadable(machines))
        self.discard_all(environment, machines)
        if dhcp.stop(environment):
            outcome.removed.append("DHCP server")
        with files.exclusive(network.ALLOCATOR):
            # Bridges first: once the claim is gone, nothing records their names.
            outcome.removed += network.remove(environment, self.bridges(environment))
            publish.remove(environment)
            claimed = self.networks(environment)
            outcome.notes += self.release_network(environment, claimed)
            outcome.removed += [each.name for each in claimed]
        return outcome

    def states(self, request: Request) -> dict[str, str]:
        return {machine.node: machine.state for machine in self.machines(request.environment)}

    def fingerprint(self, environment: str, plan: Mapping[str, Any]) -> dict[str, str]:
        published = publish.fingerprint(environment, paths.environment(environment))
        return {**network.fingerprint(environment, plan), **published}

    def preflight(self, request: Request) -> list[Probe]:
        """Check everything that the missing nodes need; quick if all nodes run."""
        profile, environment = request.profile, request.environment
        programs = {
            **self.required_programs(profile),
            **(probes.DHCP_PROGRAMS if profile["addressing"] == "dhcp" else {}),
        }
        results = [probes.root_probe(), *probes.program_probes(programs), *self.software_probes()]
        if "ipv6" in profile["families"]:
            results.append(probes.ipv6_probe())
        if not all(probe.ok for probe in results):
            return results
        results += publish.probes(environment, profile)
        existing = registry.machines(environment)
        refuse_others(existing, environment, request.home)
        self._lost(request, [machine for machine in existing if machine.environment == environment])
        running = {machine.node for machine in existing if machine.state == RUNNING}
        missing = [node for node in profile["nodes"] if node["name"] not in running]
        if missing:
            refuse_others(registry.networks(environment), environment, request.home)
            results += [*size_probes(profile, missing), *self.capacity_probes(profile, missing)]
        claimed = self.networks(environment)
        if claimed:
            _require_subnets(claimed[0])
            subnets = {addresses.family(ipaddress.ip_network(text)): text for text in claimed[0].subnets}
        else:
            subnets = network.choose_subnets(profile, None, registry.networks())
        bridge = claimed[0].bridge if claimed else ""
        return [*results, *firewall.probes(subnets, bridge, several=len(profile["nodes"]) > 1)]


def size_probes(profile: Profile, missing: Iterable[Node]) -> Iterator[Probe]:
    """Yield a probe for each node that is larger than the default: a small host has nodes of the default size too."""
    engine = engines.traits(profile["kubernetes"]["engine"])
    for node in missing:
        default = engines.group_of(node["group"], engine)["default"]
        cpus = node["cpus"] if node["cpus"] > default.get("cpus", 0) else 0
        memory = node["memory"] if node["memory"] > data.parse_quantity(default["memory"]) else 0
        if cpus or memory:
            yield probes.size_probe(node["name"], cpus, memory)


def refuse_others(items: Iterable[Machine | Network], environment: str, home: str) -> None:
    """Raise DevenvError ``name_taken`` if something of the environment belongs to another DEVENV_HOME."""
    for item in items:
        # The home of a virtual machine whose folder is lost is unknown.
        if item.home not in ("", home):
            raise DevenvError(
                "name_taken",
                f"environment {environment} on this machine belongs to {item.home}",
                advice=f"Choose another name with --name, or work with DEVENV_HOME={item.home}.",
            )


def _require_subnets(claimed: Network) -> None:
    """Raise DevenvError ``state_broken`` if the record of a claim could not be read."""
    if not claimed.subnets:
        raise DevenvError("state_broken", f"the record of the network {claimed.name}", where=claimed.environment)


def _unreadable(machines: Iterable[Machine]) -> list[str]:
    return [f"the definition of {each.node} could not be read" for each in machines if each.state == UNREADABLE]


def claim(provider: MachineProvider, request: Request) -> NetworkPlan:
    """Claim the environment's subnets and write what depends on them: network.yml, host keys, known_hosts. Return
    network.yml. A start needs this as well: since a reboot of this host the subnet may differ.
    """
    environment, profile, folder = request.environment, request.profile, request.folder
    previous = state.read_network(folder)
    with files.exclusive(network.ALLOCATOR):
        refuse_others([*registry.networks(environment), *registry.machines(environment)], environment, request.home)
        claimed = next(iter(provider.networks(environment)), None)
        if claimed is None:
            chosen = network.choose_subnets(profile, previous, registry.networks())
            for family, subnet in chosen.items():
                if not network.is_in_pool(profile["network"], family, subnet):
                    request.say(f"{profile['network']['node_pools'][family]} is in use on this host; using {subnet}")
            subnets = [chosen[family] for family in profile["families"]]
            claimed = provider.claim_network(environment, request.home, subnets)
    _require_subnets(claimed)
    by_family = {addresses.family(ipaddress.ip_network(subnet)): subnet for subnet in claimed.subnets}
    plan: NetworkPlan = {**network_plan.make(profile, by_family, previous), "bridge": claimed.bridge}
    state.write_network(folder, plan)
    node_addresses = ssh_keys.node_addresses(plan)
    ssh_keys.ensure_hosts(folder, node_addresses)
    ssh_keys.write_known_hosts(folder, node_addresses)
    return plan


def init_variables(node: NodeSpec) -> dict[str, str]:
    """Return the variables that roles/node_image/files/node-init reads."""
    variables = {"DEVENV_FAMILIES": node.families}
    if node.dhcp:
        variables |= {"DEVENV_DHCP": node.families}
    else:
        variables |= {"DEVENV_ADDRESSES": node.interfaces, "DEVENV_GATEWAYS": list(node.gateways)}
    return {name: " ".join(words) for name, words in variables.items()}


def ssh_targets(nodes: Iterable[NodeSpec]) -> list[tuple[str, str]]:
    """Return each node's name with each of its addresses."""
    return [(node.name, address) for node in nodes for address in node.addresses]


def cache_probes(folder: Path) -> list[Probe]:
    """Check the disk space for a provider's caches, unless their ``folder`` exists already."""
    return [] if folder.is_dir() else [probes.disk_probe(preflight.DISK_FOR_CACHES, paths.cache())]
