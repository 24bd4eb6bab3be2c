"""Everything that an environment needs of this host, looked at in one go before the first change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network
from ansible_collections.devenv.lab.plugins.plugin_utils.host import probes as host
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import claims, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import RUNNING, Provider, Request

# Node image, image store and bundle, when they are still to be made.
DISK_FOR_CACHES = 6 * 2**30


def look(
    provider: Provider,
    request: Request,
    programs: Mapping[str, str],
    basics: Sequence[Probe],
    room: Callable[[Sequence[Mapping[str, Any]]], Sequence[Probe]],
) -> list[Probe]:
    """Return the probes for making what is missing of an environment; quick when all nodes run. ``basics`` are the
    provider's first ones, ``room`` those of what the missing nodes (of the profile) take.
    """
    resolved, environment = request.profile, request.environment
    programs = {**programs, **(host.DHCP_PROGRAMS if resolved["addressing"] == "dhcp" else {})}
    probes = [host.root_probe(), *host.program_probes(programs), *basics]
    if "ipv6" in resolved["families"]:
        probes.append(host.ipv6_probe())
    if not all(probe.ok for probe in probes):
        return probes
    existing = registry.machines(environment)
    claims.refuse_others(existing, environment, request.home)
    members.check_majority(members.recorded(request.folder), {machine.node for machine in existing})
    running = {machine.node for machine in existing if machine.state == RUNNING}
    missing = [node for node in resolved["nodes"] if node["name"] not in running]
    if not missing:
        return probes
    claims.refuse_others(registry.networks(environment), environment, request.home)
    probes.extend(room(missing))
    if not provider.networks(environment):
        network.choose_subnets(resolved, None, registry.networks())
    return probes


def caches_probes(folder: Path) -> list[Probe]:
    """Look for the disk that a provider's caches take, while their ``folder`` is still to be made."""
    return [] if folder.is_dir() else [host.disk_probe(DISK_FOR_CACHES, paths.cache())]


def require(probes: Sequence[Probe]) -> None:
    """Raise one DevenvError that names every probe that failed, with the reason of the first."""
    failed = [probe for probe in probes if probe.required and not probe.ok]
    if failed:
        raise DevenvError(
            failed[0].reason,
            "; ".join(f"{probe.name}: {probe.seen}, needed: {probe.needed}" for probe in failed),
            advice=" ; ".join(dict.fromkeys(probe.fix for probe in failed)),
        )


def doctor() -> list[Probe]:
    """Return all probes that need no profile, advice included. What other providers need than a profile's default one
    is optional.
    """
    smallest = resolve("sno")
    default = registry.of(smallest)
    probes = [host.root_probe(), *host.program_probes(default.programs), *default.features()]
    memory = engines.in_use(smallest["nodes"], smallest["kubernetes"]["engine"])["memory"]
    probes.append(host.memory_probe(memory))
    probes += [host.disk_probe(DISK_FOR_CACHES, folder) for folder in (paths.home(), paths.cache())]
    probes.append(host.ipv6_probe(required=False))
    optional = {name: package for one in registry.every() for name, package in one.programs.items()}
    optional = {name: package for name, package in optional.items() if name not in default.programs}
    return [*probes, *host.program_probes(host.DHCP_PROGRAMS | optional, required=False), *host.advice_probes()]
