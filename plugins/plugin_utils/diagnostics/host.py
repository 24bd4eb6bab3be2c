"""What this host tells of an environment, for an archive: containers and networks of it, the host's own state."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import driver as libvirt

Put = Callable[[str, bytes], None]
SECONDS = 10.0
LIMIT = 1 << 20

COMMANDS: dict[str, Sequence[str]] = {
    "uname.txt": ["uname", "-a"],
    "uptime.txt": ["uptime"],
    "memory.txt": ["free", "-m"],
    "disks.txt": ["df", "-T", "-h"],
    "inodes.txt": ["df", "-i"],
    "addresses.txt": ["ip", "-d", "address"],
    "routes4.txt": ["ip", "-4", "route", "show", "table", "all"],
    "routes6.txt": ["ip", "-6", "route", "show", "table", "all"],
    "nft.txt": ["nft", "list", "ruleset"],
    "iptables.txt": ["iptables-save"],
    "ip6tables.txt": ["ip6tables-save"],
    "kernel.txt": ["dmesg", "--ctime"],
}
PODMAN: dict[str, Sequence[str]] = {
    "podman/version.txt": ["podman", "version"],
    "podman/info.txt": ["podman", "info"],
    "podman/containers.txt": ["podman", "ps", "--all"],
    "podman/networks.txt": ["podman", "network", "ls"],
    "podman/volumes.txt": ["podman", "volume", "ls"],
}
LABEL = "devenv.environment"


def collect(name: str, provider: str, put: Put) -> str:
    """Give what each program says; return which of them could not be run."""
    troubles = []
    for path, argv in commands(name, provider):
        try:
            done = program.run(argv, timeout=SECONDS, check=False)
        except FileNotFoundError:
            troubles.append(f"there is no program {argv[0]}")
            continue
        except (program.ProgramFailed, OSError) as error:
            troubles.append(str(error))
            continue
        text = done.stdout + done.stderr
        put(path, (text if len(text) <= LIMIT else "[cut]\n" + text[-LIMIT:].partition("\n")[2]).encode())
    return "; ".join(dict.fromkeys(troubles))


def commands(name: str, provider: str) -> Iterator[tuple[str, Sequence[str]]]:
    """File and program, for each."""
    yield from COMMANDS.items()
    if provider == "libvirt":
        yield from _libvirt(name)
    if provider != "podman":
        return
    yield from PODMAN.items()
    for container in _names(["podman", "ps", "--all", f"--filter=label={LABEL}={name}", "--format=json"], "Names"):
        # What systemd said before a journal was there, and why a container ended.
        yield f"podman/{container}/log.txt", ["podman", "logs", "--tail=2000", container]
        yield f"podman/{container}/inspect.json", ["podman", "inspect", container]
    for network in _names(["podman", "network", "ls", f"--filter=label={LABEL}={name}", "--format=json"], "name"):
        yield f"podman/network-{network}.json", ["podman", "network", "inspect", network]


def _libvirt(name: str) -> Iterator[tuple[str, Sequence[str]]]:
    """What the kernels of the machines printed, and what QEMU said; libvirt itself may be at work for someone else."""
    for machine in libvirt.machines(name):
        place = libvirt.folder(name)
        yield f"libvirt/{machine.node}/console.txt", ["tail", "--lines=2000", machine.console or os.devnull]
        yield f"libvirt/{machine.node}/qemu.txt", ["tail", "--lines=200", str(place / f"log/qemu/{machine.name}.log")]
        yield f"libvirt/{machine.node}/domain.xml", ["cat", str(place / f"etc/qemu/{machine.name}.xml")]


def _names(argv: Sequence[str], key: str) -> list[str]:
    try:
        rows = json.loads(program.run(argv, timeout=SECONDS).stdout or "[]") or []
    except (OSError, program.ProgramFailed, ValueError):
        return []
    found = [row.get(key) for row in rows]
    return [str(name[0] if isinstance(name, list) else name) for name in found if name]
