"""Evaluation of the probes of this host, for a run and for `devenv doctor`."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host import probes as host
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
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


def doctor() -> list[Probe]:
    """Return all probes that need no profile, advice included. What only other providers than the default one need is
    optional.
    """
    smallest = resolve("sno")
    default = registry.of(smallest)
    probes = [host.root_probe(), *host.program_probes(default.programs), *default.features()]
    memory = engines.in_use(smallest["nodes"], smallest["kubernetes"]["engine"])["memory"]
    probes.append(host.memory_probe(memory))
    probes += [host.disk_probe(DISK_FOR_CACHES, folder) for folder in (paths.home(), paths.cache())]
    probes.append(host.ipv6_probe(required=False))
    all_programs = {name: package for provider in registry.every() for name, package in provider.programs.items()}
    optional = {name: package for name, package in all_programs.items() if name not in default.programs}
    return [*probes, *host.program_probes(host.DHCP_PROGRAMS | optional, required=False), *host.advice_probes()]
