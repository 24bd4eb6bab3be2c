"""Nodes as virtual machines of libvirt: make, start, stop, end. Their network on this host is as that of containers.

A machine is found by the metadata of its definition, its emulator by a variable of its own, so an environment can be
taken down without its state folder.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import shutil
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp, network
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import (
    RUNNING,
    ProvisionOutcome,
    Request,
    init_variables,
    ssh_targets,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.claims import set_up_network
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.image_store import link_or_copy
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import driver
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import image as libvirt_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt.image import Image
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.reachable import wait_for_ssh

ARGUMENTS = (
    "root=/dev/vda rw rootflags=noinit_itable init=/usr/local/sbin/vm-init console=ttyS0 net.ifnames=0 panic=-1 "
    "quiet systemd.show_status=error"
)
# What costs an emulated kernel much and protects it from nobody; it must not take a slow host for a lock-up.
EMULATED = "mitigations=off cryptomgr.notests nowatchdog"
# Seconds until a node answers, by whether it runs by KVM: an emulated one takes half a minute on an idle host, and many
# times that on a busy one.
SSH_LIMIT = {True: 120.0, False: 600.0}
# Bytes that an emulator takes beside the memory of its machine: a quarter of a GiB for translated code alone.
OVERHEAD = 384 * 2**20


def bridge_name(environment: str) -> str:
    """A link's name has 15 characters at most."""
    return f"dv-{hashlib.sha256(environment.encode()).hexdigest()[:8]}"


def claim_network(environment: str, home: str, subnets: Sequence[str]) -> Network:
    """Note the environment's subnets where every run of this machine sees them."""
    claimed = Network(network.network_name(environment), environment, home, bridge_name(environment), list(subnets))
    driver.write_network(claimed)
    return claimed


def create(request: Request, plan: NetworkPlan, nodes: Sequence[NodeSpec]) -> ProvisionOutcome:
    """Make what is missing, start what is stopped, leave what runs alone."""
    environment, state, options = request.environment, request.folder, request.options
    image, images = Image(Path(options["image"])), Path(options["images_disk"]) if options["images_disk"] else None
    outcome = ProvisionOutcome()
    driver.share_capabilities(environment, paths.cache())
    refresh(environment)
    running = {machine.node for machine in driver.machines(environment) if machine.state == RUNNING}
    missing = [node for node in nodes if node.name not in running]
    if missing:
        request.say(f"nodes: {', '.join(node.name for node in missing)}")
    # First, so that a node's first question for its addresses or its router is answered.
    if set_up_network(environment, state, plan, nodes):
        outcome.notes.append("host side of the network set")

    def made(node: NodeSpec) -> bool:
        return make_disks(state, node, image, images if node.cluster else None)

    with ThreadPoolExecutor(max_workers=4) as pool:
        fresh = list(pool.map(made, missing))
    for node, new in zip(missing, fresh, strict=True):
        (outcome.made if new else outcome.started).append(node.name)
        bring_up(request, node, plan, options["kvm"])
    for names in (outcome.made, outcome.started):
        names.sort()
    driver.share_capabilities(environment, paths.cache())
    wait(state, nodes, options["kvm"])
    return outcome


def folder_of(state: Path, node: str) -> Path:
    """Where a node's disks and console lie."""
    return state / "nodes" / node


def make_disks(state: Path, node: NodeSpec, image: Image, images_disk: Path | None) -> bool:
    """Have the disks of a node: what is written lies over images that all nodes share. Return whether they were made.

    A node's folder is whole or not there. It holds links to the images, so that emptying the cache hurts no node.
    """
    place = folder_of(state, node.name)
    if place.is_dir():
        return False
    made = place.with_name(f".{node.name}.making")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True, mode=0o700)
    sources = {
        "vmlinuz": image.kernel,
        "initrd": image.initrd,
        "root.raw": libvirt_image.of_size(image.root, node.disk),
    }
    if images_disk is not None:
        sources["images.raw"] = libvirt_image.of_size(images_disk, node.disk)
    for name, source in sources.items():
        link_or_copy(source, made / name)
    for base in ("root", "images") if images_disk else ("root",):
        layer = str(made / f"{base}.qcow2")
        program.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", f"{base}.raw", layer])
    os.replace(made, place)
    return True


def write_seed(state: Path, node: NodeSpec) -> Path:
    """What a node takes over when it starts (roles/provider_libvirt/files/vm-init), as an archive that is a disk."""
    keys = state / "ssh" / "hosts" / node.name
    contents = {
        "node": (seed_variables(node).encode(), 0o644),
        "resolv.conf": (Path("/etc/resolv.conf").read_bytes(), 0o644),
        **{f"ssh/{entry.name}": (entry.read_bytes(), 0o600) for entry in sorted(keys.iterdir()) if entry.is_file()},
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, (content, mode) in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    target = folder_of(state, node.name) / "seed.tar"
    target.touch(mode=0o600)
    target.write_bytes(archive.getvalue())
    return target


def seed_variables(node: NodeSpec) -> str:
    """Variables of roles/node_image/files/node-init, and the node's name, as shell."""
    variables = {"DEVENV_HOSTNAME": [node.name], **init_variables(node)}
    # None of the values has a character that a shell would read otherwise.
    return "".join(f"export {name}='{' '.join(words)}'\n" for name, words in variables.items())


def bring_up(request: Request, node: NodeSpec, plan: NetworkPlan, kvm: bool) -> None:
    """Define a node's machine as it is to be now, and start it."""
    environment, state = request.environment, request.folder
    place = folder_of(state, node.name)
    disks = [
        driver.Disk(place / "root.qcow2", "qcow2"),
        driver.Disk(write_seed(state, node), "raw", True),
    ]
    if (place / "images.qcow2").exists():
        disks.append(driver.Disk(place / "images.qcow2", "qcow2"))
    spec = driver.MachineSpec(
        environment=environment,
        node=node.name,
        home=request.home,
        cpus=math.ceil(node.cpus),
        memory=node.memory,
        mac=node.mac,
        bridge=plan["bridge"],
        kernel=place / "vmlinuz",
        initrd=place / "initrd",
        arguments=ARGUMENTS if kvm else f"{ARGUMENTS} {EMULATED}",
        disks=disks,
        console=place / "console.log",
        kvm=kvm,
    )
    description = driver.folder(environment) / "domain.xml"
    files.write(description, driver.definition(spec))
    _virsh(environment, "define", str(description))
    _virsh(environment, "start", spec.name)


def _virsh(environment: str, *words: str, timeout: float = 180) -> None:
    """virsh, with its own words when it fails (it writes its log to stderr, too)."""
    try:
        driver.virsh(environment, *words, timeout=timeout)
    except program.ProgramFailed as failure:
        errors = re.findall(r"(?m)^error: (.+)$", failure.stderr)
        raise DevenvError(
            "libvirt_failed", f"virsh {words[0]}: {'; '.join(errors) or failure}", where=words[-1]
        ) from failure


def refresh(environment: str) -> None:
    """Let libvirt see what happened to the machines while nobody was connected."""
    if not driver.folder(environment).is_dir():
        return
    for _attempt in range(2):
        # virsh that ends while its driver is busy with a machine that ends is at times killed by a signal.
        if driver.virsh(environment, "list", "--all", check=False).code == 0:
            return
    _virsh(environment, "list", "--all")


def wait(state: Path, nodes: Sequence[NodeSpec], kvm: bool) -> None:
    """Wait until every node answers; a machine that does not has a console to read."""
    try:
        wait_for_ssh(ssh_targets(nodes), SSH_LIMIT[kvm], patience=60, pause=0.5)
    except DevenvError as error:
        consoles = folder_of(state, "NODE") / "console.log"
        raise DevenvError(error.reason.id, error.message, advice=f"{consoles} has what the node printed.") from error


def start(request: Request, plan: NetworkPlan, nodes: Sequence[NodeSpec]) -> ProvisionOutcome:
    """Start the nodes that have disks and do not run."""
    environment, state = request.environment, request.folder
    kvm = bool(libvirt_image.kvm_known(paths.cache()).usable)
    outcome = ProvisionOutcome()
    driver.share_capabilities(environment, paths.cache())
    refresh(environment)
    set_up_network(environment, state, plan, nodes)
    running = {machine.node for machine in driver.machines(environment) if machine.state == RUNNING}
    made = [node for node in nodes if folder_of(state, node.name).is_dir()]
    for node in made:
        if node.name not in running:
            bring_up(request, node, plan, kvm)
            outcome.started.append(node.name)
    wait(state, made, kvm)
    return outcome


def stop(environment: str, grace: int = 90) -> ProvisionOutcome:
    """Press the power button of all nodes at once; ``grace`` in seconds, then the plug is pulled."""
    outcome = ProvisionOutcome()
    running = [machine for machine in driver.machines(environment) if machine.state == RUNNING]
    for machine in running:
        _virsh(environment, "shutdown", machine.name)
    deadline = time.monotonic() + grace
    while running and time.monotonic() < deadline:
        # QEMU waits for libvirt before it ends: somebody has to be connected.
        driver.virsh(environment, "event", "--event", "lifecycle", "--loop", "--timeout", "2", check=False)
        if not any(machine.state == RUNNING for machine in driver.machines(environment)):
            break
    for machine in driver.machines(environment):
        if machine.state == RUNNING and pull_the_plug(environment, machine.name):
            outcome.notes.append(f"{machine.node} did not shut down within {grace} s")
    outcome.stopped = [machine.node for machine in running]
    dhcp.end(environment)
    return outcome


def pull_the_plug(environment: str, name: str) -> bool:
    """End a machine at once; return False where it had just ended by itself. Raises DevenvError libvirt_failed."""
    if driver.virsh(environment, "destroy", name, check=False).code == 0:
        return True
    if all(machine.name != name or machine.state != RUNNING for machine in driver.machines(environment)):
        return False
    _virsh(environment, "destroy", name)
    return True


def destroy(environment: str) -> ProvisionOutcome:
    """End everything of an environment on this host; its disks go with the state folder."""
    outcome = ProvisionOutcome(removed=[machine.node for machine in driver.machines(environment)])
    claimed = driver.networks(environment)
    # Not by virsh: a driver of its own has nothing beyond its folder, and this works without the packages, too.
    driver.end_all(environment)
    if dhcp.end(environment):
        outcome.removed.append("DHCP server")
    with files.exclusive(network.ALLOCATOR):
        outcome.removed += network.remove(environment, [bridge_name(environment)])
        driver.forget(environment)
        outcome.removed += [one.name for one in claimed]
    return outcome


def remove_nodes(environment: str, state: Path, names: Sequence[str]) -> ProvisionOutcome:
    """End single nodes of an environment, with their data."""
    outcome = ProvisionOutcome()
    refresh(environment)
    for machine in driver.machines(environment):
        if machine.node in names:
            if machine.state == RUNNING:
                pull_the_plug(environment, machine.name)
            _virsh(environment, "undefine", machine.name)
            outcome.removed.append(machine.node)
    for name in names:
        shutil.rmtree(folder_of(state, name), ignore_errors=True)
    return outcome
