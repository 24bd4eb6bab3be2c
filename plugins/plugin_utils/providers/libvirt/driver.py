"""libvirt for an environment: a QEMU driver of its own, without a daemon, and what is known without asking it.

``virsh`` runs libvirt's QEMU driver inside itself (URI ``qemu:///embed?root=FOLDER``,
https://libvirt.org/drvqemu.html#embedded-driver): definitions, sockets and logs lie in that folder, the machines live
on when virsh has ended, and a libvirtd of this host never sees them. The folder is named after the environment and
lies in /run: its sockets have room (108 bytes), and what it describes does not outlive a reboot either.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, processes, program
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import RUNNING

ROOT = Path("/run/devenv/libvirt")
# Of every libvirt of a host.
SHARED = Path("/run/libvirt")
SCHEMA = "urn:devenv:node"
# In the environment of QEMU: "<environment> <node>", by which it is found when its folder is lost.
MARKER = "DEVENV_VIRTUAL_MACHINE"
# libvirt refuses to start as root unless there is this user, even when the configuration names another.
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
# On Debian and Ubuntu, elsewhere.
DRIVERS = ("lib/*-linux-gnu", "lib64", "lib")
DRIVER_PACKAGE = "libvirt-daemon-driver-qemu"

# https://libvirt.org/drvqemu.html; each node's files belong to root and lie below folders that only root can enter.
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
    """A virtual machine of ours. ``state`` is running or shut off; ``console`` has what its kernel printed."""

    console: str = ""


def drivers(base: Path = Path("/usr")) -> list[Path]:
    """libvirt's QEMU driver, where it is installed."""
    return [
        path
        for place in DRIVERS
        for path in sorted(base.glob(f"{place}/libvirt/connection-driver/libvirt_driver_qemu.so"))
    ]


def folder(environment: str) -> Path:
    """Root of the environment's driver."""
    if not environment:
        raise ValueError("an environment has a name")
    return ROOT / environment


def uri(environment: str) -> str:
    """What virsh and others connect to."""
    return f"qemu:///embed?root={folder(environment)}"


# --- what there is, read without virsh --------------------------------------------------------------------------------


def networks(environment: str | None = None) -> list[Network]:
    """Networks of ``environment``, or of every environment on this machine."""
    claimed = []
    for record in sorted(ROOT.glob(f"{environment or '*'}/environment.json")):
        try:
            claimed.append(Network(**json.loads(record.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    return claimed


def write_network(network: Network) -> None:
    """Make the environment's folder, with its claim of name and subnets."""
    place = folder(network.environment)
    for part in (ROOT.parent, ROOT, place):
        part.mkdir(mode=0o755 if part == ROOT.parent else 0o700, exist_ok=True)
    files.write(place / "environment.json", json.dumps(asdict(network)))
    files.write(place / "etc" / "qemu.conf", _CONFIGURATION)


def machines(environment: str | None = None) -> list[Machine]:
    """All machines of ``environment``, or of every environment on this machine, running or not, by name."""
    running = qemus()
    by_name: dict[str, Machine] = {}
    for place in sorted(ROOT.glob(f"{environment or '*'}/etc/qemu/*.xml")):
        try:
            machine = parse_definition(place.read_text())
        except (OSError, ValueError):
            continue
        pid = running.pop((machine.environment, machine.node), 0)
        by_name[machine.name] = Machine(**{**asdict(machine), "state": RUNNING if pid else "shut off", "pid": pid})
    # Those whose folder is lost.
    for (owner, node), pid in running.items():
        if environment in (None, owner):
            name = f"{owner}-{node}"
            by_name[name] = Machine(name, owner, node, "", RUNNING, pid)
    return [by_name[name] for name in sorted(by_name)]


def parse_definition(text: str) -> Machine:
    """The machine that a definition (libvirt's domain XML) describes. Raises ValueError for one that is not ours."""
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
    """Emulators that run nodes: environment and node to process id."""
    return {
        (words[0], words[1]): pid
        for pid, words in processes.carrying(MARKER, lambda name: name.startswith("qemu"), proc)
        if len(words) == 2
    }


# --- virsh ------------------------------------------------------------------------------------------------------------

# As libvirt-daemon-system would make the user; seen by virsh and what it starts alone.
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
    argv = ["virsh", "--quiet", "--connect", uri(environment), *words]
    with files.exclusive(place / "lock"):
        if not _has_user():
            shell = ["unshare", "--mount", "--propagation", "slave", "sh", "-euc", _WITH_USER]
            argv = [*shell, "virsh", str(place), USER, *argv]
        # QEMU gets an environment of its own, so it does not carry the marker of this run.
        return program.run(argv, timeout=timeout, check=check)


def _has_user(passwd: Path = Path("/etc/passwd")) -> bool:
    """Also asks what is not in the file (LDAP and such)."""
    if f"\n{USER}:" in f"\n{passwd.read_text()}":
        return True
    return program.run(["getent", "passwd", USER], check=False).code == 0


def share_capabilities(environment: str, cache: Path) -> None:
    """Give the environment's driver what earlier ones found out about QEMU, or keep what this one did: asking takes
    seconds. libvirt asks again by itself when QEMU or the kernel changed.
    """
    own, kept = folder(environment) / "cache" / "qemu" / "capabilities", cache / "libvirt-capabilities"
    source, target = (own, kept) if own.is_dir() else (kept, own)
    for entry in source.glob("*.xml"):
        if not (target / entry.name).exists():
            files.write(target / entry.name, entry.read_text())


# --- end --------------------------------------------------------------------------------------------------------------


def end_all(environment: str) -> None:
    """End every emulator of the environment, as pulling the plug would."""

    def emulators(_known: object) -> list[processes.Process]:
        pids = [pid for (owner, _node), pid in qemus().items() if owner == environment]
        return [process for process in map(processes.read_process, pids) if process]

    processes.end_all(emulators, grace=0)


def forget(environment: str) -> None:
    """Remove the environment's folder, and what libvirt leaves beside it where nothing else of libvirt is."""
    shutil.rmtree(folder(environment), ignore_errors=True)
    for part in (ROOT, ROOT.parent):
        _remove_empty(part)
    if not any(ROOT.glob("*")):
        _remove_unused(SHARED)


def _remove_unused(place: Path) -> None:
    """What the driver makes for all of libvirt; a libvirtd of this host has sockets there as well."""
    if {entry.name for entry in place.glob("*")} <= {"common", "hostdevmgr"}:
        shutil.rmtree(place, ignore_errors=True)


def _remove_empty(place: Path) -> None:
    try:
        place.rmdir()
    except OSError:
        return


# --- definition -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """A disk of a machine; ``kind`` is raw or qcow2. Archives and such are not written to."""

    path: Path
    kind: str
    readonly: bool = False


@dataclass(frozen=True)
class MachineSpec:
    """A machine as it is to be. ``memory`` in bytes; ``disks`` become vda, vdb, ...; ``kvm`` False: emulated."""

    environment: str
    node: str
    home: str
    cpus: int
    memory: int
    mac: str
    bridge: str
    kernel: Path
    initrd: Path
    arguments: str
    disks: Sequence[Disk]
    console: Path
    kvm: bool

    @property
    def name(self) -> str:
        return f"{self.environment}-{self.node}"


def definition(spec: MachineSpec) -> str:
    """The domain XML (https://libvirt.org/formatdomain.html) of a machine."""
    # The same each time: a machine whose emulator was killed is still known, and takes only a definition of its own.
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{spec.name} {spec.mac}")
    values = {**asdict(spec), "kind": "kvm" if spec.kvm else "qemu", "name": spec.name, "uuid": identity}
    disks = "".join(map(_disk, "abcdefgh", spec.disks))
    quoted = {key: escape(str(value), {'"': "&quot;"}) for key, value in values.items()}
    return _DOMAIN.format(**{**quoted, "processor": _PROCESSOR[spec.kvm], "disks": disks})


def _disk(letter: str, disk: Disk) -> str:
    readonly = "<readonly/>" if disk.readonly else ""
    return f"""
    <disk type="file" device="disk">
      <driver name="qemu" type="{disk.kind}"/><source file={quoteattr(str(disk.path))}/>
      <target dev="vd{letter}" bus="virtio"/>{readonly}
    </disk>"""


_PROCESSOR = {
    True: '<features><acpi/></features><cpu mode="host-passthrough"/>',
    # All that programs of today ask for (x86-64-v2), and nothing for which a kernel loads modules that test themselves
    # first: for an emulated processor that takes longer than all the rest of the boot.
    False: '<features><acpi/><tcg><tb-cache unit="MiB">256</tb-cache></tcg></features>'
    '<cpu mode="custom" match="exact"><model fallback="allow">Nehalem</model></cpu>',
}

# The last element is for the emulator's environment: libvirt has none of its own for that.
_DOMAIN = f"""\
<domain type="{{kind}}" xmlns:devenv="{SCHEMA}" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>{{name}}</name>
  <uuid>{{uuid}}</uuid>
  <metadata><devenv:node environment="{{environment}}" name="{{node}}" home="{{home}}"/></metadata>
  <memory unit="b">{{memory}}</memory>
  <vcpu>{{cpus}}</vcpu>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
    <kernel>{{kernel}}</kernel>
    <initrd>{{initrd}}</initrd>
    <cmdline>{{arguments}}</cmdline>
  </os>
  {{processor}}
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>{{disks}}
    <interface type="bridge">
      <mac address="{{mac}}"/><source bridge="{{bridge}}"/><model type="virtio"/>
    </interface>
    <serial type="pty"><log file="{{console}}" append="on"/></serial>
    <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
    <controller type="usb" model="none"/>
    <memballoon model="none"/>
  </devices>
  <qemu:commandline><qemu:env name="{MARKER}" value="{{environment}} {{node}}"/></qemu:commandline>
</domain>
"""
