"""Claims of names and subnets, which are machine-wide: one environment must not take another's, whoever made it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, ssh_keys, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import nodes as environment_nodes
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network as host_network
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Machine, Provider, Request


def refuse_others(items: Iterable[Machine | Network], environment: str, home: str) -> None:
    """Raise DevenvError ``name_taken`` when something of the environment belongs to another DEVENV_HOME."""
    for item in items:
        # A virtual machine whose folder is lost has nobody's name on it.
        if item.home not in ("", home):
            raise DevenvError(
                "name_taken",
                f"the environment {environment} of this machine belongs to {item.home}",
                advice=f"Choose another name with --name, or work with DEVENV_HOME={item.home}.",
            )


def claim(
    provider: Provider, environment: str, home: str, resolved: Profile, previous: NetworkPlan | None
) -> NetworkPlan:
    """Choose subnets, make them visible to every run of this machine, and return network.yml."""
    with files.exclusive(host_network.ALLOCATOR):
        refuse_others([*registry.networks(environment), *registry.machines(environment)], environment, home)
        network = next(iter(provider.networks(environment)), None)
        if network is None:
            chosen = host_network.choose_subnets(resolved, previous, registry.networks())
            network = provider.claim_network(environment, home, [chosen[family] for family in resolved["families"]])
    subnets = {host_network.family(subnet): subnet for subnet in network.subnets}
    return {**network_plan.make(resolved, subnets, previous), "bridge": network.bridge}


def prepare(provider: Provider, request: Request) -> tuple[NetworkPlan, list[NodeSpec]]:
    """Claim the environment's network and write down what depends on it: network.yml, host keys, known_hosts. Return
    network.yml and the nodes.
    """
    folder = request.folder
    plan = claim(provider, request.environment, request.home, request.profile, state.read_network(folder))
    state.write_network(folder, plan)
    # Before a start as well: since a reboot of this host the subnet may be another.
    addresses_of = ssh_keys.node_addresses(plan)
    ssh_keys.ensure_hosts(folder, addresses_of)
    ssh_keys.write_known_hosts(folder, addresses_of)
    return plan, environment_nodes.planned(request.profile, plan)


def set_up_network(environment: str, folder: Path, plan: NetworkPlan, nodes: Sequence[NodeSpec]) -> bool:
    """Set up this host's side of the network in ``plan``. Return whether anything was missing."""
    return host_network.set_up(environment, folder, plan, serve_dhcp=any(node.dhcp for node in nodes))
