"""Everything that an environment needs of this host, looked at in one go before the first change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members
from ansible_collections.devenv.lab.plugins.plugin_utils.host import probes as host
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import driver as libvirt
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import image as libvirt_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import nodes as libvirt_nodes
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import nodes as podman_nodes

# Node image, image store and bundle, when they are still to be made.
DISK_FOR_CACHES = 6 * 2**30


def _backend_probe() -> Probe:
    """Does podman use the network program that leaves addresses and firewall to us?"""
    backend = podman.network_backend()
    return Probe(
        "podman network",
        backend == "netavark",
        backend,
        "netavark",
        "apt-get install -y --no-install-recommends netavark, then podman system reset",
        "podman_backend",
    )


def look(environment: str, resolved: Mapping[str, Any]) -> list[Probe]:
    """Probes for making what is missing of ``environment``; quick when all nodes run."""
    if resolved["provider"] == "libvirt":
        return _look_libvirt(environment, resolved)
    programs = host.PROGRAMS | (host.DHCP_PROGRAMS if resolved["addressing"] == "dhcp" else {})
    probes = [host.root_probe(), *host.program_probes(programs)]
    if "ipv6" in resolved["families"]:
        probes.append(host.ipv6_probe())
    if not all(probe.ok for probe in probes):
        return probes
    there = podman.containers(environment)
    podman_nodes.owner_conflict(there, environment, str(paths.home()))
    members.check_majority(members.recorded(paths.environment(environment)), {container.node for container in there})
    running = {container.node for container in there if container.state == "running"}
    missing = [node for node in resolved["nodes"] if node["name"] not in running]
    if not missing:
        return probes
    probes.append(_backend_probe())
    probes.extend(host.kernel_probes())
    # What such nodes were measured to use, not their limits: most of a limit is never asked for.
    used = profile.in_use(missing, resolved["kubernetes"]["engine"])
    probes += [host.memory_probe(used["memory"]), host.disk_probe(used["disk"], paths.home())]
    if not (paths.cache() / "image-stores").is_dir():
        probes.append(host.disk_probe(DISK_FOR_CACHES, paths.cache()))
    probes.append(host.inotify_probe(used["inotify"]))
    if not podman.networks(environment):
        podman_nodes.choose_subnets(resolved, None)
    return probes


# Of a host that has nodes as virtual machines; those of a cluster need podman as well, to unpack images.
LIBVIRT_PROGRAMS = {
    **{name: host.PROGRAMS[name] for name in ("mmdebstrap", "nft", "ip", "ssh", "ssh-keygen")},
    **libvirt.PROGRAMS,
}


def _look_libvirt(environment: str, resolved: Mapping[str, Any]) -> list[Probe]:
    """As ``look``, for nodes that are virtual machines."""
    clustered = any(node["cluster"] is not None for node in resolved["nodes"])
    programs = LIBVIRT_PROGRAMS | (host.PROGRAMS if clustered else {})
    programs |= host.DHCP_PROGRAMS if resolved["addressing"] == "dhcp" else {}
    probes = [host.root_probe(), *host.program_probes(programs), _driver_probe()]
    if "ipv6" in resolved["families"]:
        probes.append(host.ipv6_probe())
    if not all(probe.ok for probe in probes):
        return probes
    there = libvirt.machines(environment)
    mine = libvirt.networks(environment)
    podman_nodes.owner_conflict([*mine, *podman_nodes.others(environment)], environment, str(paths.home()))
    members.check_majority(members.recorded(paths.environment(environment)), {machine.node for machine in there})
    running = {machine.node for machine in there if machine.state == "running"}
    missing = [node for node in resolved["nodes"] if node["name"] not in running]
    if not missing:
        return probes
    # A machine takes in the end what it was given, unlike a container.
    memory = sum(node["memory"] + libvirt_nodes.OVERHEAD for node in missing)
    disk = profile.in_use(missing, resolved["kubernetes"]["engine"])["disk"]
    probes += [host.memory_probe(memory), host.disk_probe(disk, paths.home())]
    if not (paths.cache() / "virtual-machines").is_dir():
        probes.append(host.disk_probe(DISK_FOR_CACHES, paths.cache()))
    probes.append(kvm_probe())
    if not mine:
        podman_nodes.choose_subnets(resolved, None)
    return probes


def _driver_probe() -> Probe:
    """virsh alone drives no QEMU: the driver is a library in a package of its own."""
    found = next(iter(libvirt.drivers()), None)
    return Probe(
        "libvirt's QEMU driver",
        found is not None,
        str(found or "not found"),
        "installed",
        f"apt-get install -y --no-install-recommends {libvirt.DRIVER_PACKAGE}",
        "program_missing",
    )


def kvm_probe() -> Probe:
    """What is known of this host's KVM; without it nodes are emulated."""
    known = libvirt_image.kvm_known(paths.cache())
    fix = "nothing; or give this machine KVM that works (nested virtualization)"
    return Probe(
        "KVM", bool(known.usable), known.words, "boots a kernel", fix, "kernel_feature_missing", required=False
    )


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
    """All probes that need no profile, advice included."""
    probes = [host.root_probe(), *host.program_probes(host.PROGRAMS), *host.kernel_probes()]
    if all(probe.ok for probe in probes if probe.name == "program podman"):
        probes.append(_backend_probe())
    memory = profile.in_use(profile.resolve("sno")["nodes"], "kubeadm")["memory"]
    probes.append(host.memory_probe(memory))
    probes += [host.disk_probe(DISK_FOR_CACHES, folder) for folder in (paths.home(), paths.cache())]
    probes.append(host.ipv6_probe(required=False))
    optional = {**host.DHCP_PROGRAMS, **libvirt.PROGRAMS}
    return [*probes, *host.program_probes(optional, required=False), *host.advice_probes()]
