"""An environment's own QEMU driver of libvirt, without a daemon, and its state as read from files and /proc.

``virsh`` runs libvirt's QEMU driver in its own process (URI ``qemu:///embed?root=FOLDER``,
https://libvirt.org/drvqemu.html#embedded-driver): definitions, sockets and logs are in that folder, the machines keep
running when virsh exits, and a libvirtd of this host never sees them. The folder is in /run, named after the
environment: socket paths stay below 108 bytes, and the machines do not outlive a reboot either.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import shutil
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, processes, program
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network, network_name
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import RUNNING

ROOT = Path("/run/devenv/libvirt")
# Shared by all libvirt drivers of a host.
SHARED = Path("/run/libvirt")
SCHEMA = "urn:devenv:node"
# In the environment of QEMU: "<environment> <node>", which identifies it when its folder is lost.
MARKER = "DEVENV_VIRTUAL_MACHINE"
# libvirt refuses to start as root unless this user exists, even if the configuration names another.
USER = "libvirt-qemu"
EMULATOR = "qemu-system-x86_64"
PROGRAMS = {
    "virsh": "libvirt-clients",
    EMULATOR: "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "unshare": "util-linux",
}
# On Debian and Ubuntu, then elsewhere.
LIBRARIES = ("lib/*-linux-gnu", "lib64", "lib")
DRIVER_PACKAGE = "libvirt-daemon-driver-qemu"

# https://libvirt.org/drvqemu.html; each node's files belong to root and are below folders that only root can enter.
_CONFIGURATION = """\
# Written by devenv.
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = []
namespaces = []
"""


@dataclass(frozen=True)
class Machine(base.Machine):
    """A virtual machine of devenv. ``state`` is running or shut off; ``console`` is the log of its serial port."""

    console: str = ""


def drivers(base: Path = Path("/usr")) -> list[Path]:
    """Return the paths at which libvirt's QEMU driver is installed."""
    name = "libvirt/connection-driver/libvirt_driver_qemu.so"
    return [path for library in LIBRARIES for path in sorted(base.glob(f"{library}/{name}"))]


def folder(environment: str) -> Path:
    """Return the root of the environment's driver."""
    if not environment:
        raise ValueError("an environment has a name")
    return ROOT / environment


# --- state, read without virsh ----------------------------------------------------------------------------------------


def networks(environment: str | None = None) -> list[Network]:
    """Return the networks of ``environment``, or of every environment on this machine. One whose record cannot be read
    has no subnets.
    """
    claimed = []
    for record in sorted(ROOT.glob(f"{environment or '*'}/environment.json")):
        name = record.parent.name
        try:
            network = Network(**json.loads(record.read_text()))
            is_valid = network.environment == name and bool([ipaddress.ip_network(text) for text in network.subnets])
        except FileNotFoundError:
            continue  # just removed
        except (OSError, ValueError, TypeError):
            is_valid = False
        claimed.append(network if is_valid else Network(network_name(name), name, "", "", []))
    return claimed


def write_network(network: Network) -> None:
    """Create the environment's folder, with its claim of name and subnets."""
    place = folder(network.environment)
    ROOT.parent.mkdir(mode=0o755, exist_ok=True)
    for part in (ROOT, place):
        part.mkdir(mode=0o700, exist_ok=True)
    files.write(place / "environment.json", json.dumps(asdict(network)))
    files.write(place / "etc" / "qemu.conf", _CONFIGURATION)


def machines(environment: str | None = None) -> list[Machine]:
    """Return the machines of ``environment``, or of every environment on this machine, sorted by name."""
    running = qemus()
    by_name: dict[str, Machine] = {}
    for path in sorted(ROOT.glob(f"{environment or '*'}/etc/qemu/*.xml")):
        machine = _defined(path)
        if machine is None:
            continue
        pid = running.pop((machine.environment, machine.node), 0)
        by_name[machine.name] = replace(machine, state=RUNNING, pid=pid) if pid else machine
    # Machines whose folder is lost.
    for (owner, node), pid in running.items():
        if environment in (None, owner):
            name = f"{owner}-{node}"
            by_name[name] = Machine(name, owner, node, "", RUNNING, pid)
    return [by_name[name] for name in sorted(by_name)]


def _defined(path: Path) -> Machine | None:
    """Return the machine of a file with a definition, which its place identifies if it cannot be read; None if it has
    just been removed.
    """
    try:
        return parse_definition(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        environment = path.parents[2].name
        home = next((network.home for network in networks(environment)), "")
        return Machine(path.stem, environment, path.stem.removeprefix(f"{environment}-"), home, base.UNREADABLE, 0)


def definition_path(environment: str, machine: str) -> Path:
    """Return the path at which libvirt keeps the definition of a machine."""
    return folder(environment) / "etc" / "qemu" / f"{machine}.xml"


def parse_definition(text: str) -> Machine:
    """Return the machine of a definition (libvirt's domain XML). Raises ValueError if it is not a node of devenv."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None
    label = root.find(f"metadata/{{{SCHEMA}}}node")
    name = root.findtext("name")
    if label is None or name is None:
        raise ValueError("not a node")
    log = root.find("devices/serial/log")
    return Machine(
        name=name,
        environment=label.get("environment", ""),
        node=label.get("name", ""),
        home=label.get("home", ""),
        state="shut off",
        pid=0,
        console=log.get("file", "") if log is not None else "",
    )


def qemus(proc: Path = Path("/proc")) -> dict[tuple[str, str], int]:
    """Return the emulators that run nodes: environment and node to process id."""
    return {
        (words[0], words[1]): pid
        for pid, words in processes.carrying(MARKER, lambda name: name.startswith("qemu"), proc)
        if len(words) == 2
    }


# --- virsh ------------------------------------------------------------------------------------------------------------

# Adds the user as libvirt-daemon-system would, visible only to virsh and the processes that it starts.
_WITH_USER = """
for name in passwd group; do
  cp "/etc/$name" "$1/$name"
  case $name in passwd) tail=0:0::/nonexistent:/usr/sbin/nologin ;; group) tail=0: ;; esac
  echo "$2:x:$tail" >> "$1/$name"
  mount --bind "$1/$name" "/etc/$name"
done
shift 2
exec "$@"
"""


def virsh(environment: str, *words: str, check: bool = True, timeout: float = 120) -> program.Result:
    """Run ``virsh WORDS`` on the environment's driver, one call at a time. Raises ProgramFailed."""
    place = folder(environment)
    argv = ["virsh", "--quiet", "--connect", f"qemu:///embed?root={place}", *words]
    with files.exclusive(place / "lock"):
        if not _has_user():
            shell = ["unshare", "--mount", "--propagation", "slave", "sh", "-euc", _WITH_USER]
            argv = [*shell, "virsh", str(place), USER, *argv]
        # libvirt gives QEMU a clean environment, so it does not carry the marker of this run.
        return program.run(argv, timeout=timeout, check=check)


def _has_user() -> bool:
    return program.run(["getent", "passwd", USER], check=False).code == 0


def share_capabilities(environment: str, cache: Path) -> None:
    """Give the environment's driver the capabilities of QEMU that an earlier one probed, or keep those of this one.

    Probing takes seconds. libvirt probes again on its own when QEMU or the kernel has changed.
    """
    probed, shared = folder(environment) / "cache" / "qemu" / "capabilities", cache / "libvirt-capabilities"
    source, target = (probed, shared) if probed.is_dir() else (shared, probed)
    for entry in source.glob("*.xml"):
        if not (target / entry.name).exists():
            files.write(target / entry.name, entry.read_text())


# --- removal ----------------------------------------------------------------------------------------------------------


def kill_all(environment: str) -> None:
    """Kill every emulator of the environment."""

    def emulators(_known: object) -> list[processes.Process]:
        pids = [pid for (owner, _node), pid in qemus().items() if owner == environment]
        return [process for process in map(processes.read_process, pids) if process]

    processes.end_all(emulators, grace=0)


def forget(environment: str) -> None:
    """Remove the environment's folder and, after the last environment, what the drivers created for all of libvirt."""
    shutil.rmtree(folder(environment), ignore_errors=True)
    with contextlib.suppress(OSError):
        ROOT.rmdir()
        ROOT.parent.rmdir()
    # A libvirtd of this host has sockets there as well.
    if not ROOT.exists() and {entry.name for entry in SHARED.glob("*")} <= {"common", "hostdevmgr"}:
        shutil.rmtree(SHARED, ignore_errors=True)


# --- definition -------------------------------------------------------------------------------------------------------

KERNEL_ARGUMENTS = (
    "root=/dev/vda rw rootflags=noinit_itable init=/usr/local/sbin/vm-init console=ttyS0 net.ifnames=0 panic=-1 "
    "quiet systemd.show_status=error"
)
# Mitigations cost an emulated kernel much and protect nobody; a slow host must not look like a lock-up.
EMULATED = "mitigations=off cryptomgr.notests nowatchdog"


def definition(environment: str, home: str, node: NodeSpec, bridge: str, folder: Path, *, kvm: bool) -> str:
    """Return the domain XML (https://libvirt.org/formatdomain.html) of a node's machine, which is emulated without
    ``kvm``. ``folder`` has its files: vmlinuz, initrd, root.qcow2, seed.tar, and images.qcow2 for a node of a cluster.
    """
    name = f"{environment}-{node.name}"
    values = {
        "kind": "kvm" if kvm else "qemu",
        "name": name,
        # Stable: libvirt still knows a machine whose emulator was killed, and redefines it only under the same UUID.
        "uuid": uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {node.mac}"),
        "environment": environment,
        "node": node.name,
        "home": home,
        "memory": node.memory,
        "cpus": node.cpus,
        "mac": node.mac,
        "bridge": bridge,
        "folder": folder,
        "arguments": KERNEL_ARGUMENTS if kvm else f"{KERNEL_ARGUMENTS} {EMULATED}",
    }
    quoted = {key: escape(str(value), {'"': "&quot;"}) for key, value in values.items()}
    images = _IMAGES.format(**quoted) if (folder / "images.qcow2").exists() else ""
    return _DOMAIN.format(**quoted, processor=_PROCESSOR[kvm], images=images, schema=SCHEMA, marker=MARKER)


_PROCESSOR = {
    True: '<features><acpi/></features><cpu mode="host-passthrough"/>',
    # All that current programs need (x86-64-v2), and nothing for which a kernel loads modules with self-tests: on an
    # emulated processor those take longer than the rest of the boot.
    False: '<features><acpi/><tcg><tb-cache unit="MiB">256</tb-cache></tcg></features>'
    '<cpu mode="custom" match="exact"><model fallback="allow">Nehalem</model></cpu>',
}

_IMAGES = """
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2"/><source file="{folder}/images.qcow2"/><target dev="vdc" bus="virtio"/>
    </disk>"""

# The last element sets a variable of the emulator: libvirt itself has no element for that.
_DOMAIN = """\
<domain type="{kind}" xmlns:devenv="{schema}" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata><devenv:node environment="{environment}" name="{node}" home="{home}"/></metadata>
  <memory unit="b">{memory}</memory>
  <vcpu>{cpus}</vcpu>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
    <kernel>{folder}/vmlinuz</kernel>
    <initrd>{folder}/initrd</initrd>
    <cmdline>{arguments}</cmdline>
  </os>
  {processor}
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2"/><source file="{folder}/root.qcow2"/><target dev="vda" bus="virtio"/>
    </disk>
    <disk type="file" device="disk">
      <driver name="qemu" type="raw"/><source file="{folder}/seed.tar"/><target dev="vdb" bus="virtio"/><readonly/>
    </disk>{images}
    <interface type="bridge">
      <mac address="{mac}"/><source bridge="{bridge}"/><model type="virtio"/>
    </interface>
    <serial type="pty"><log file="{folder}/console.log" append="on"/></serial>
    <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
    <controller type="usb" model="none"/>
    <memballoon model="none"/>
  </devices>
  <qemu:commandline><qemu:env name="{marker}" value="{environment} {node}"/></qemu:commandline>
</domain>
"""
