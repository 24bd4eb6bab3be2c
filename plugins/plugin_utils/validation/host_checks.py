"""Checks of this host, on which the nodes are machines."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ansible_collections.devenv.lab.plugins.plugin_utils.host import firewall
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Finding, Level


class Host(Level):
    """Whether this host lets the traffic between the nodes pass."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = list(networks)

    def look(self, api: client.Api) -> dict[str, Finding]:
        missing = []
        for network in self._networks:
            subnets = {addresses.family(ipaddress.ip_network(subnet)): subnet for subnet in network.subnets}
            probes = firewall.probes(subnets, network.bridge, several=True)
            missing += [f"{probe.seen}; {probe.fix}" for probe in probes if probe.required and not probe.ok]
        return {"host_firewall": Finding("open", tuple(missing), hopeless=bool(missing))}


def levels(cluster: Cluster, environment: str) -> list[Level]:
    """Return the level of this host; none if no traffic of the cluster passes this host."""
    networks = registry.networks(environment) if environment and len(cluster.nodes) > 1 else []
    return [Host(networks)] if networks else []
