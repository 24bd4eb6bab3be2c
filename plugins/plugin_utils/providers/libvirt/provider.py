"""The provider ``libvirt``: nodes as virtual machines.

The metadata of its definition identifies a machine, a variable in its environment the emulator, so removing them needs
no state directory.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network, probes, resolvers
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import image_store, loss, machines, node_recipe
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import (
    RUNNING,
    UNREADABLE,
    CachedFile,
    Machine,
    ProvisionOutcome,
    Request,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import driver, image
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.reachable import wait_for_ssh

# Seconds until a node answers, with KVM or emulated: an emulated one takes half a minute on an idle host, and many
# times that on a busy one.
SSH_LIMIT = {True: 120.0, False: 600.0}
# Bytes that an emulator takes in addition to its machine's memory: a quarter of a GiB for translated code alone.
OVERHEAD = 384 * 2**20


class Provider(machines.MachineProvider):
    """QEMU machines, each environment with its own libvirt driver."""

    name: ClassVar[str] = "libvirt"
    failure: ClassVar[str] = "libvirt_failed"
    programs: ClassVar[Mapping[str, str]] = node_recipe.HOST_PROGRAMS | driver.PROGRAMS

    def start(self, request: Request) -> ProvisionOutcome:
        kvm = bool(image.known_kvm(paths.cache()).usable)
        return super().start(replace(request, options={**request.options, "kvm": kvm}))

    def bring_up(
        self, request: Request, plan: NetworkPlan, nodes: Sequence[NodeSpec], outcome: ProvisionOutcome, *, create: bool
    ) -> None:
        environment = request.environment
        driver.share_capabilities(environment, paths.cache())
        refresh(environment)
        lost = [node.name for node in nodes if not has_disk(request.folder, node.name)]
        if lost and not create:
            raise DevenvError("node_gone", f"{', '.join(lost)}: the disk is gone", where=environment)
        if create:
            with ThreadPoolExecutor(max_workers=4) as pool:
                created = list(pool.map(lambda node: make_disks(request, node), nodes))
            outcome.made += [node.name for node, is_new in zip(nodes, created, strict=True) if is_new]
            gone = [name for name in outcome.made if loss.was_reachable(request.folder, name)]
            outcome.warnings += [
                f"{name}: its disk was gone, so it was recreated: everything on it is lost" for name in gone
            ]
        for node in nodes:
            if has_disk(request.folder, node.name):
                _boot(request, node, plan["bridge"])
                if node.name not in outcome.made:
                    outcome.started.append(node.name)
        driver.share_capabilities(environment, paths.cache())

    def intact(self, request: Request, existing: Sequence[Machine]) -> set[str]:
        kept = {name for name in request.nodes if has_disk(request.folder, name)}
        return kept | {machine.node for machine in existing if machine.state == RUNNING}

    def wait(self, request: Request, nodes: Sequence[NodeSpec]) -> None:
        try:
            wait_for_ssh(machines.ssh_targets(nodes), SSH_LIMIT[request.options["kvm"]], patience=60, pause=0.5)
        except DevenvError as error:
            console = node_folder(request.folder, "NODE") / "console.log"
            raise DevenvError(error.reason.id, error.message, advice=f"Read the node's console: {console}") from error

    def shut_down(self, environment: str, running: Sequence[Machine], grace: int) -> list[str]:
        for machine in running:
            _virsh(environment, "shutdown", machine.name)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and self._running(environment):
            # QEMU waits for libvirt before it ends, so a client has to be connected.
            driver.virsh(environment, "event", "--event", "lifecycle", "--loop", "--timeout", "2", check=False)
        return [
            f"{machine.node} did not shut down within {grace} s"
            for machine in self._running(environment).values()
            if switch_off(environment, machine.name)
        ]

    def discard(self, environment: str, machines: Sequence[Machine]) -> None:
        refresh(environment)
        for machine in machines:
            if machine.state == RUNNING:
                switch_off(environment, machine.name)
            if machine.state == UNREADABLE:
                driver.definition_path(environment, machine.name).unlink(missing_ok=True)
            else:
                _virsh(environment, "undefine", machine.name)

    def discard_all(self, environment: str, machines: Sequence[Machine]) -> None:
        # Without virsh: the environment's driver has nothing outside its folder, and this works without the packages.
        driver.kill_all(environment)

    def states(self, request: Request) -> dict[str, str]:
        if not request.check:
            refresh(request.environment)
        return super().states(request)

    def power(self, environment: str, node: str, *, on: bool) -> None:
        name = f"{environment}-{node}"
        if on:
            driver.virsh(environment, "start", name)
        else:
            switch_off(environment, name)

    def machines(self, environment: str | None = None) -> list[Machine]:
        return list(driver.machines(environment))

    def networks(self, environment: str | None = None) -> list[Network]:
        return driver.networks(environment)

    def bridges(self, environment: str) -> list[str]:
        return [bridge_name(environment)]

    def claim_network(self, environment: str, home: str, subnets: Sequence[str]) -> Network:
        name, bridge = network.network_name(environment), bridge_name(environment)
        claimed = Network(name, environment, home, bridge, list(subnets))
        driver.write_network(claimed)
        return claimed

    def release_network(self, environment: str, networks: Sequence[Network]) -> list[str]:
        driver.forget(environment)
        return []

    def required_programs(self, profile: Profile) -> Mapping[str, str]:
        has_cluster = any(node["cluster"] is not None for node in profile["nodes"])
        return {**(image_store.HOST_PROGRAMS if has_cluster else {}), **self.programs}

    def software_probes(self) -> list[Probe]:
        """Check for the QEMU driver, which virsh loads from a library in a package of its own."""
        library = next(iter(driver.drivers()), None)
        fix = f"apt-get install -y --no-install-recommends {driver.DRIVER_PACKAGE}"
        shown = str(library or "not found")
        return [Probe("libvirt's QEMU driver", library is not None, shown, "installed", fix, "program_missing")]

    def capacity_probes(self, profile: Profile, missing: Sequence[Mapping[str, Any]]) -> list[Probe]:
        # Unlike a container, a machine takes all of its memory in the end.
        memory = sum(node["memory"] + OVERHEAD for node in missing)
        disk = engines.in_use(missing, profile["kubernetes"]["engine"])["disk"]
        return [
            probes.memory_probe(memory),
            probes.disk_probe(disk, paths.home()),
            *machines.cache_probes(image.folder(paths.cache())),
            kvm_probe(),
        ]

    def diagnostics(self, environment: str) -> Iterator[tuple[str, Sequence[str]]]:
        """Return the consoles of the machines and QEMU's logs. Does not use virsh: another caller may block it."""
        place = driver.folder(environment)
        for machine in driver.machines(environment):
            folder, log = f"libvirt/{machine.node}", place / f"log/qemu/{machine.name}.log"
            yield f"{folder}/console.txt", ["tail", "--lines=2000", machine.console or os.devnull]
            yield f"{folder}/qemu.txt", ["tail", "--lines=200", str(log)]
            yield f"{folder}/domain.xml", ["cat", str(driver.definition_path(environment, machine.name))]

    def cached_files(self) -> list[CachedFile]:
        # Nodes have hard links to these files, so removing them here hurts no node.
        cached = sorted(entry for entry in image.folder(paths.cache()).glob("*") if entry.is_dir())
        return [CachedFile("virtual-machines", str(entry), store.size_of(entry)) for entry in cached]


def bridge_name(environment: str) -> str:
    """Return the name of the bridge: a link's name has at most 15 characters."""
    return f"dv-{hashlib.sha256(environment.encode()).hexdigest()[:8]}"


def node_folder(state: Path, node: str) -> Path:
    """Return the folder of a node's disks and console."""
    return state / "nodes" / node


def has_disk(state: Path, node: str) -> bool:
    """Return whether a node's own disk exists, which has all of its data."""
    return (node_folder(state, node) / "root.qcow2").is_file()


def kvm_probe() -> Probe:
    """Check whether this host's KVM is known to work; without it nodes are emulated."""
    kvm, reason = image.known_kvm(paths.cache()), "kernel_feature_missing"
    fix = "nothing; or give this machine KVM that works (nested virtualization)"
    return Probe("KVM", bool(kvm.usable), kvm.description, "boots a kernel", fix, reason, required=False)


# --- starting a machine -----------------------------------------------------------------------------------------------


def make_disks(request: Request, node: NodeSpec) -> bool:
    """Create a node's disks, layers over images that all nodes share. Return whether they were missing.

    A node's folder is complete or absent. It has links to the images, so emptying the cache hurts no node.
    """
    folder = node_folder(request.folder, node.name)
    if has_disk(request.folder, node.name):
        return False
    unfinished = folder.with_name(f".{node.name}.making")
    for remains in (unfinished, folder):
        shutil.rmtree(remains, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o700)
    source = Path(request.options["image"])
    for name in (image.KERNEL, image.INITRD):
        image_store.link_or_copy(source / name, unfinished / name)
    bases = {"root": source / image.ROOT}
    if node.cluster and request.options["images_disk"]:
        bases["images"] = Path(request.options["images_disk"])
    for name, base in bases.items():
        image_store.link_or_copy(image.of_size(base, node.disk), unfinished / f"{name}.raw")
        layer = str(unfinished / f"{name}.qcow2")
        program.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", f"{name}.raw", layer])
    os.replace(unfinished, folder)
    return True


def write_seed(state: Path, node: NodeSpec) -> Path:
    """Write the node's settings (roles/provider_libvirt/files/vm-init reads them) as an archive that is a disk."""
    keys = state / "ssh" / "hosts" / node.name
    contents = {
        "node": (seed_variables(node).encode(), 0o644),
        "resolv.conf": (resolvers.for_nodes().encode(), 0o644),
        **{f"ssh/{entry.name}": (entry.read_bytes(), 0o600) for entry in sorted(keys.iterdir()) if entry.is_file()},
    }
    target = node_folder(state, node.name) / "seed.tar"
    target.touch(mode=0o600)
    with tarfile.open(target, mode="w") as tar:
        for name, (content, mode) in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    return target


def seed_variables(node: NodeSpec) -> str:
    """Return the node's name and the variables of roles/node_image/files/node-init as shell code."""
    variables = {"DEVENV_HOSTNAME": node.name, **machines.init_variables(node)}
    # No value has a character that a shell interprets.
    return "".join(f"export {name}='{value}'\n" for name, value in variables.items())


def _boot(request: Request, node: NodeSpec, bridge: str) -> None:
    """Define a node's machine by its current settings, and start it."""
    environment, folder = request.environment, node_folder(request.folder, node.name)
    write_seed(request.folder, node)
    description = driver.folder(environment) / "domain.xml"
    definition = driver.definition(environment, request.home, node, bridge, folder, kvm=request.options["kvm"])
    files.write(description, definition)
    _virsh(environment, "define", str(description))
    _virsh(environment, "start", f"{environment}-{node.name}")


# --- virsh ------------------------------------------------------------------------------------------------------------


def _virsh(environment: str, *words: str) -> None:
    """Run virsh; a failure reports its errors only, as virsh also writes its log to stderr."""
    try:
        driver.virsh(environment, *words, timeout=180)
    except program.ProgramFailed as failure:
        errors = re.findall(r"(?m)^error: (.+)$", failure.stderr)
        message = f"virsh {words[0]}: {'; '.join(errors) or failure}"
        raise DevenvError("libvirt_failed", message, where=words[-1]) from failure


def refresh(environment: str) -> None:
    """Connect to libvirt once, so that it notices machines that ended while no client was connected."""
    if not driver.folder(environment).is_dir():
        return
    for _attempt in range(2):
        # virsh is sometimes killed by a signal if it ends while its driver handles the end of a machine.
        if driver.virsh(environment, "list", "--all", check=False).code == 0:
            return
    _virsh(environment, "list", "--all")


def switch_off(environment: str, name: str) -> bool:
    """Terminate a machine at once; return False if it had ended already. Raises DevenvError ``libvirt_failed``."""
    if driver.virsh(environment, "destroy", name, check=False).code == 0:
        return True
    if all(machine.name != name or machine.state != RUNNING for machine in driver.machines(environment)):
        return False
    _virsh(environment, "destroy", name)
    return True
