"""The provider of virtual machines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network, probes
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import profile
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
        plan, specs = claims.prepare(self, request)
        options = request.options
        disk = Path(options["images_disk"]) if options["images_disk"] else None
        boot = nodes.Boot(image.Image(Path(options["image"])), disk, options["kvm"])
        return nodes.create(request.environment, request.home, request.folder, specs, plan, boot, request.say)

    def start(self, request: Request) -> ProvisionOutcome:
        plan, specs = claims.prepare(self, request)
        kvm = bool(image.kvm_known(paths.cache()).usable)
        return nodes.start(request.environment, request.home, request.folder, plan, specs, kvm)

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

    def fingerprint(self, environment: str, network_: Mapping[str, Any]) -> dict[str, str]:
        return network.fingerprint(environment, network_["bridge"])

    def preflight(self, request: Request) -> list[Probe]:
        resolved = request.profile

        def room(missing: Sequence[Mapping[str, Any]]) -> list[Probe]:
            # A machine takes in the end what it was given, unlike a container.
            memory = sum(node["memory"] + nodes.OVERHEAD for node in missing)
            disk = profile.in_use(missing, resolved["kubernetes"]["engine"])["disk"]
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
    found = next(iter(driver.drivers()), None)
    return Probe(
        "libvirt's QEMU driver",
        found is not None,
        str(found or "not found"),
        "installed",
        f"apt-get install -y --no-install-recommends {driver.DRIVER_PACKAGE}",
        "program_missing",
    )


def kvm_probe() -> Probe:
    """What is known of this host's KVM; without it nodes are emulated."""
    known = image.kvm_known(paths.cache())
    fix = "nothing; or give this machine KVM that works (nested virtualization)"
    return Probe(
        "KVM", bool(known.usable), known.words, "boots a kernel", fix, "kernel_feature_missing", required=False
    )
