"""The provider of virtual machines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network as host_network
from ansible_collections.devenv.lab.plugins.plugin_utils.host import probes
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import (
    base,
    claims,
    image_store,
    node_recipe,
    preflight,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import (
    CachedFile,
    Machine,
    ProvisionOutcome,
    Request,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import driver, image, nodes


class Provider(base.Provider):
    """Machines of QEMU, driven by a libvirt of the environment's own."""

    name: ClassVar[str] = "libvirt"
    failure: ClassVar[str] = "libvirt_failed"
    programs: ClassVar[Mapping[str, str]] = driver.PROGRAMS

    def create(self, request: Request) -> ProvisionOutcome:
        return nodes.create(request, *claims.prepare(self, request))

    def start(self, request: Request) -> ProvisionOutcome:
        return nodes.start(request, *claims.prepare(self, request))

    def stop(self, request: Request, grace: int) -> ProvisionOutcome:
        return nodes.stop(request.environment, grace)

    def remove(self, request: Request, names: Sequence[str]) -> ProvisionOutcome:
        return nodes.remove_nodes(request.environment, request.folder, names)

    def destroy(self, request: Request) -> ProvisionOutcome:
        return nodes.destroy(request.environment)

    def states(self, request: Request) -> dict[str, str]:
        if not request.check:
            nodes.refresh(request.environment)
        return {machine.node: machine.state for machine in driver.machines(request.environment)}

    def power(self, environment: str, node: str, *, on: bool) -> None:
        name = f"{environment}-{node}"
        if on:
            driver.virsh(environment, "start", name)
        else:
            nodes.pull_the_plug(environment, name)

    def machines(self, environment: str | None = None) -> list[Machine]:
        return list(driver.machines(environment))

    def networks(self, environment: str | None = None) -> list[Network]:
        return driver.networks(environment)

    def claim_network(self, environment: str, home: str, subnets: Sequence[str]) -> Network:
        return nodes.claim_network(environment, home, subnets)

    def fingerprint(self, environment: str, network: Mapping[str, Any]) -> dict[str, str]:
        return host_network.fingerprint(environment, network["bridge"])

    def preflight(self, request: Request) -> list[Probe]:
        resolved = request.profile

        def room(missing: Sequence[Mapping[str, Any]]) -> list[Probe]:
            # A machine takes in the end what it was given, unlike a container.
            memory = sum(node["memory"] + nodes.OVERHEAD for node in missing)
            disk = engines.in_use(missing, resolved["kubernetes"]["engine"])["disk"]
            return [
                probes.memory_probe(memory),
                probes.disk_probe(disk, paths.home()),
                *preflight.caches_probes(image.folder(paths.cache())),
                kvm_probe(),
            ]

        clustered = any(node["cluster"] is not None for node in resolved["nodes"])
        store = image_store.HOST_PROGRAMS if clustered else {}
        programs = {**store, **node_recipe.HOST_PROGRAMS, **self.programs}
        return preflight.look(self, request, programs, [driver_probe()], room)

    def diagnostics(self, environment: str) -> Iterator[tuple[str, Sequence[str]]]:
        """What the kernels of the machines printed, and QEMU; libvirt itself may be at work for somebody else."""
        for machine in driver.machines(environment):
            place = driver.folder(environment)
            yield f"libvirt/{machine.node}/console.txt", ["tail", "--lines=2000", machine.console or os.devnull]
            yield (
                f"libvirt/{machine.node}/qemu.txt",
                ["tail", "--lines=200", str(place / f"log/qemu/{machine.name}.log")],
            )
            yield f"libvirt/{machine.node}/domain.xml", ["cat", str(place / f"etc/qemu/{machine.name}.xml")]

    def cached_files(self) -> list[CachedFile]:
        # Nodes have links to them: those that go here are not missed.
        kept = sorted(image.folder(paths.cache()).glob("*"))
        return [CachedFile("virtual-machines", str(entry), store.size_of(entry)) for entry in kept]


def driver_probe() -> Probe:
    """virsh alone drives no QEMU: the driver is a library in a package of its own."""
    found, name = next(iter(driver.drivers()), None), "libvirt's QEMU driver"
    fix = f"apt-get install -y --no-install-recommends {driver.DRIVER_PACKAGE}"
    return Probe(name, found is not None, str(found or "not found"), "installed", fix, "program_missing")


def kvm_probe() -> Probe:
    """What is known of this host's KVM; without it nodes are emulated."""
    known, reason = image.kvm_known(paths.cache()), "kernel_feature_missing"
    fix = "nothing; or give this machine KVM that works (nested virtualization)"
    return Probe("KVM", bool(known.usable), known.words, "boots a kernel", fix, reason, required=False)
