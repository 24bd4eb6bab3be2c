"""Evaluation of the probes of this host, for a run and for `devenv doctor`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host import firewall, limits, network, resolvers
from ansible_collections.devenv.lab.plugins.plugin_utils.host import probes as host
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry

# Node image, image store and bundle, unless they exist already.
DISK_FOR_CACHES = 6 * 2**30


def require(probes: Sequence[Probe]) -> None:
    """Raise one DevenvError that names every failed probe, with the reason of the first."""
    failed = [probe for probe in probes if probe.required and not probe.ok]
    if failed:
        raise DevenvError(
            failed[0].reason,
            "; ".join(f"{probe.name}: {probe.seen}, needed: {probe.needed}" for probe in failed),
            advice=" ; ".join(dict.fromkeys(probe.fix for probe in failed)),
        )


def network_probes(profile: Profile) -> list[Probe]:
    """Check whether a subnet is free on this host, and whether a firewall drops traffic of nodes."""
    pools = profile["network"]["node_pools"]
    dropped = [dataclasses.replace(probe, required=False) for probe in firewall.probes(pools, several=True)]
    needed, fix, reason = "one that nothing else uses", "name another pool under network.node_pools", "subnet_none_free"
    try:
        free = network.choose_subnets(profile, None, registry.networks())
    except DevenvError as error:
        return [Probe("subnet", False, error.message, needed, fix, reason), *dropped]
    return [Probe("subnet", True, ", ".join(free.values()), needed, fix, reason), *dropped]


def doctor() -> list[Probe]:
    """Return all probes that need no profile, advice included. What only other providers than the default one need is
    optional.
    """
    smallest = resolve("sno")
    default = registry.of(smallest)
    probes = [host.root_probe(), *host.program_probes(default.programs), *default.features()]
    memory = engines.in_use(smallest["nodes"], smallest["kubernetes"]["engine"])["memory"]
    probes.append(host.memory_probe(memory))
    for folder in (paths.home(), paths.cache()):
        probes += [host.disk_probe(DISK_FOR_CACHES, folder), host.filesystem_probe(folder)]
    probes.append(host.ipv6_probe(required=False))
    all_programs = {name: package for provider in registry.every() for name, package in provider.programs.items()}
    optional = {name: package for name, package in all_programs.items() if name not in default.programs}
    if all(shutil.which(name) for name in ("ip", "nft")):
        probes += network_probes(smallest)
    probes += [resolvers.probe(), *host.program_probes(host.DHCP_PROGRAMS | optional, required=False)]
    return [*probes, *host.advice_probes(), limits.open_files_probe(limits.open_files())]
