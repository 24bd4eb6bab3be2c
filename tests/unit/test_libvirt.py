"""Virtual machines of libvirt: definitions, discovery without a state directory, disks, KVM, power."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import processes
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import Result
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import nodes as environment_nodes
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network as host_network
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import machines, preflight, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import ProvisionOutcome, Request
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import driver as libvirt
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import image as libvirt_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import provider as libvirt_provider
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt.provider import Provider

MIB = 2**20
NODE = NodeSpec(
    name="worker-0",
    group="workers",
    cpus=2,
    memory=1024 * MIB,
    mac="52:54:0a:d5:04:0a",
    addresses=("10.213.4.10", "fd77::10"),
    prefixes=(24, 64),
    gateways=("10.213.4.1", "fd77::1"),
)


def definition(folder: Path = Path("/s"), *, kvm: bool = False) -> str:
    return libvirt.definition("lab", "/h & co", NODE, "dv-12345678", folder, kvm=kvm)


def test_a_definition_describes_the_desired_machine() -> None:
    domain = ElementTree.fromstring(definition())
    assert domain.get("type") == "qemu"
    assert (domain.findtext("name"), domain.findtext("memory"), domain.findtext("vcpu")) == (
        "lab-worker-0",
        str(1024 * MIB),
        "2",
    )
    disks = [
        (disk.find("source").get("file"), disk.find("target").get("dev"), disk.find("readonly") is not None)  # type: ignore[union-attr]
        for disk in domain.findall("devices/disk")
    ]
    assert disks == [("/s/root.qcow2", "vda", False), ("/s/seed.tar", "vdb", True)]
    assert domain.find("devices/interface/source").get("bridge") == "dv-12345678"  # type: ignore[union-attr]
    assert domain.find("features/tcg/tb-cache") is not None


def test_a_node_of_a_cluster_has_a_disk_of_images(tmp_path: Path) -> None:
    (tmp_path / "images.qcow2").touch()
    disks = ElementTree.fromstring(definition(tmp_path)).findall("devices/disk")
    targets = {disk.find("target").get("dev"): disk.find("source").get("file") for disk in disks}  # type: ignore[union-attr]
    assert targets["vdc"] == f"{tmp_path}/images.qcow2"
    assert list(targets) == ["vda", "vdb", "vdc"]


def test_kvm_uses_the_hosts_processor_and_no_translation_cache() -> None:
    domain = ElementTree.fromstring(definition(kvm=True))
    assert domain.get("type") == "kvm"
    assert domain.find("cpu").get("mode") == "host-passthrough"  # type: ignore[union-attr]
    assert domain.find("features/tcg") is None


def test_a_definition_identifies_its_environment_and_node() -> None:
    machine = libvirt.parse_definition(definition())
    assert machine == libvirt.Machine("lab-worker-0", "lab", "worker-0", "/h & co", "shut off", 0, "/s/console.log")


@pytest.mark.parametrize("text", ["", "<domain><name>x</name></domain>", "<domain><metadata/></domain>"])
def test_foreign_definitions_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        libvirt.parse_definition(text)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(libvirt, "ROOT", tmp_path / "devenv" / "libvirt")
    monkeypatch.setattr(libvirt, "SHARED", tmp_path / "run-libvirt")
    monkeypatch.setattr(libvirt, "qemus", dict)
    return tmp_path / "devenv" / "libvirt"


def network(name: str = "lab", subnet: str = "10.213.0.0/24") -> Network:
    return Network(f"devenv-{name}", name, "/h", libvirt_provider.bridge_name(name), [subnet])


def test_environments_are_listed_without_their_state_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lab", "other"):
        libvirt.write_network(network(name))
    place = root / "lab" / "etc" / "qemu"
    place.mkdir()
    (place / "lab-worker-0.xml").write_text(definition())
    assert [each.environment for each in libvirt.networks()] == ["lab", "other"]
    assert libvirt.networks("lab") == [network("lab")]
    assert [machine.state for machine in libvirt.machines()] == ["shut off"]
    monkeypatch.setattr(libvirt, "qemus", lambda: {("lab", "worker-0"): 7, ("lost", "master-0"): 8})
    states = {machine.name: (machine.state, machine.pid) for machine in libvirt.machines()}
    assert states == {"lab-worker-0": ("running", 7), "lost-master-0": ("running", 8)}
    assert [machine.name for machine in libvirt.machines("lab")] == ["lab-worker-0"]


@pytest.mark.parametrize("content", [b"", b"<domain", b"\xff\xfe", b"<domain><name>x</name></domain>"])
def test_a_definition_that_cannot_be_read_is_reported_and_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    libvirt.write_network(network())
    for name in ("lab-worker-0", "lab-worker-1"):
        path = libvirt.definition_path("lab", name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if name == "lab-worker-0" else definition().replace("worker-0", "worker-1").encode())
    (broken, whole) = libvirt.machines("lab")
    assert broken == libvirt.Machine("lab-worker-0", "lab", "worker-0", "/h", "unreadable", 0)
    assert (whole.node, whole.state) == ("worker-1", "shut off")
    monkeypatch.setattr(libvirt, "qemus", lambda: {("lab", "worker-0"): 7})
    assert next((each.node, each.state, each.pid) for each in libvirt.machines()) == ("worker-0", "running", 7)

    commands: list[tuple[str, ...]] = []

    def virsh(environment: str, *words: str, check: bool = True, timeout: float = 0) -> Result:
        commands.append(words)
        return Result(0, "", "")

    monkeypatch.setattr(libvirt, "virsh", virsh)
    Provider().discard("lab", [broken, whole])
    # libvirt does not know a machine whose definition it cannot read.
    assert commands == [("list", "--all"), ("undefine", "lab-worker-1")]
    assert not libvirt.definition_path("lab", "lab-worker-0").exists()


def test_down_names_a_definition_that_cannot_be_read(isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    libvirt.write_network(network())
    path = libvirt.definition_path("lab", "lab-worker-0")
    path.parent.mkdir()
    path.write_text("<")
    for module, name in ((host_network, "remove"), (machines.publish, "remove")):
        monkeypatch.setattr(module, name, lambda *_: [])
    monkeypatch.setattr(dhcp, "stop", lambda name: False)
    outcome = Provider().destroy(Request("lab", profile()))
    assert outcome.removed[0] == "worker-0"
    assert outcome.notes == ["the definition of worker-0 could not be read"]
    assert not libvirt.folder("lab").exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"environment": "lab"}', '{"name": "a", "environment": "lab", "home": "/h", '
    '"bridge": "dv-1", "subnets": ["10.1"]}', '{"name": "a", "environment": "lab", "home": "/h", "bridge": "dv-1", '
    '"subnets": []}'],
)  # fmt: skip
def test_a_claim_that_cannot_be_read_is_kept_and_reported(
    isolated: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(host_network, "routes", dict)
    monkeypatch.setenv("DEVENV_HOME", str(tmp_path))
    libvirt.write_network(network())
    libvirt.write_network(network("other"))
    (libvirt.folder("lab") / "environment.json").write_text(content)
    assert libvirt.networks() == [Network("devenv-lab", "lab", "", "", []), network("other")]
    with pytest.raises(DevenvError) as caught:
        machines.claim(Provider(), Request("lab", profile()))
    assert (caught.value.reason.id, caught.value.where) == ("state_broken", "lab")
    assert "devenv-lab" in caught.value.message


def test_forgetting_the_last_environment_leaves_no_folder(root: Path) -> None:
    for name in ("lab", "other"):
        libvirt.write_network(network(name))
    libvirt.forget("lab")
    assert [entry.name for entry in root.iterdir()] == ["other"]
    libvirt.forget("other")
    assert not root.parent.exists()


def test_emulators_are_identified_by_their_variable(tmp_path: Path) -> None:
    def process(pid: int, comm: str, environ: str) -> None:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "comm").write_text(comm + "\n")
        (tmp_path / str(pid) / "environ").write_text(environ)

    process(11, "qemu-system-x86", f"PATH=/bin\0{libvirt.MARKER}=lab worker-0\0")
    process(12, "qemu-system-x86", "PATH=/bin\0")
    process(13, "sh", f"{libvirt.MARKER}=lab worker-1\0")
    assert libvirt.qemus(tmp_path) == {("lab", "worker-0"): 11}


def test_capabilities_are_probed_once(root: Path, tmp_path: Path) -> None:
    for name in ("lab", "other"):
        libvirt.write_network(network(name))
    probed = root / "lab" / "cache" / "qemu" / "capabilities"
    probed.mkdir(parents=True)
    (probed / "12.xml").write_text("<qemuCaps/>")
    libvirt.share_capabilities("lab", tmp_path / "cache")
    libvirt.share_capabilities("other", tmp_path / "cache")
    assert (root / "other" / "cache" / "qemu" / "capabilities" / "12.xml").read_text() == "<qemuCaps/>"


@pytest.fixture
def isolated(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the other providers' machines, and use an allocator lock of the test."""
    monkeypatch.setattr(host_network, "ALLOCATOR", tmp_path / "lock")
    monkeypatch.setattr(registry, "every", lambda: [Provider()])


def test_subnets_of_virtual_machines_are_not_free(isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    libvirt.write_network(network(subnet="10.213.77.0/24"))
    pool = {"network": {"node_pools": {"ipv4": "10.213.77.0/24"}, "node_prefix": 24}, "families": ["ipv4"]}
    with pytest.raises(DevenvError, match="no free /24"):
        host_network.choose_subnets(pool, None, registry.networks())


def test_a_name_of_another_home_is_refused(isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVENV_HOME", "/elsewhere")
    libvirt.write_network(network())
    with pytest.raises(DevenvError, match="belongs to /h"):
        machines.claim(Provider(), Request("lab", profile()))


def test_a_claim_is_stable(isolated: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_network, "routes", lambda: ["10.213.0.0/24"])
    monkeypatch.setenv("DEVENV_HOME", str(tmp_path))
    plan = machines.claim(Provider(), Request("lab", profile()))
    assert plan["subnets"] == {"ipv4": "10.213.1.0/24"}
    assert len(plan["bridge"]) < 16
    assert machines.claim(Provider(), Request("lab", profile())) == plan


def test_a_shell_reads_the_variables_of_a_node() -> None:
    script = (
        libvirt_provider.seed_variables(NODE)
        + 'echo "$DEVENV_HOSTNAME|$DEVENV_ADDRESSES|$DEVENV_GATEWAYS|$DEVENV_FAMILIES"'
    )
    output = subprocess.run(["sh", "-eu"], input=script, capture_output=True, text=True, check=True).stdout
    assert output == "worker-0|10.213.4.10/24 fd77::10/64|10.213.4.1 fd77::1|ipv4 ipv6\n"


def test_the_seed_is_a_disk_that_only_root_can_read(tmp_path: Path) -> None:
    keys = tmp_path / "ssh" / "hosts" / "worker-0"
    keys.mkdir(parents=True)
    (keys / "ssh_host_ed25519_key").write_text("secret")
    libvirt_provider.node_folder(tmp_path, "worker-0").mkdir(parents=True)
    seed = libvirt_provider.write_seed(tmp_path, NODE)
    assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    # QEMU requires whole sectors.
    assert seed.stat().st_size % 512 == 0
    with tarfile.open(seed) as tar:
        assert {member.name: oct(member.mode) for member in tar} == {
            "node": "0o644",
            "resolv.conf": "0o644",
            "ssh/ssh_host_ed25519_key": "0o600",
        }


# --- KVM --------------------------------------------------------------------------------------------------------------


def emulator(folder: Path, script: str) -> list[str]:
    path = folder / "emulator"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


IMAGE = Path("/nowhere")


@pytest.mark.parametrize(
    ("script", "boots"),
    [
        ("echo Linux version 6; echo 'Loading, please wait...'; sleep 60", True),
        ("printf 'Loading, plea'; sleep 0.1; printf 'se wait...'; sleep 60", True),
        ("echo SeaBIOS; sleep 60", False),
        ("sleep 60", False),
        ("exit 1", False),
    ],
)
def test_only_a_kernel_that_runs_a_program_proves_kvm(tmp_path: Path, script: str, boots: bool) -> None:
    assert (libvirt_image.boots(IMAGE, emulator(tmp_path, script), 0.7) is not None) is boots


def test_kvm_is_proved_once_per_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    known = libvirt_image.known_kvm
    assert "no /dev/kvm" in known(tmp_path, device).description
    device.touch()
    assert known(tmp_path, device).usable is None
    monkeypatch.setattr(libvirt_image, "known_kvm", lambda cache: known(cache, device))
    progress: list[str] = []
    program = emulator(tmp_path, "echo tried >> $0.log; echo 'Loading, please wait'; sleep 60")
    for _round in range(2):
        assert libvirt_image.prove_kvm(IMAGE, tmp_path, progress.append, program).usable is True
    assert (tmp_path / "emulator.log").read_text() == "tried\n"
    proof = json.loads((tmp_path / "kvm.json").read_text())
    assert proof["boot"] == processes.boot_id()
    (tmp_path / "kvm.json").write_text(json.dumps({**proof, "boot": "an earlier boot"}))
    assert known(tmp_path, device).usable is None
    (tmp_path / "kvm.json").write_text(json.dumps({**proof, "boots": False}))
    assert known(tmp_path, device).usable is False


# --- preflight --------------------------------------------------------------------------------------------------------


def profile(**changes: Any) -> Profile:
    return cast(Profile, resolve("sno", overrides={"provider": "libvirt", **changes}))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_preflight_names_the_missing_driver(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt, "drivers", list)
    probes = Provider().preflight(Request("lab", profile()))
    with pytest.raises(DevenvError, match="libvirt's QEMU driver: not found") as caught:
        preflight.require([probe for probe in probes if not probe.name.startswith("program ")])
    assert "libvirt-daemon-driver-qemu" in caught.value.advice


def test_the_driver_is_found_in_the_folders_of_distributions(tmp_path: Path) -> None:
    assert libvirt.drivers(tmp_path) == []
    driver = tmp_path / "lib64" / "libvirt" / "connection-driver" / "libvirt_driver_qemu.so"
    driver.parent.mkdir(parents=True)
    driver.touch()
    assert libvirt.drivers(tmp_path) == [driver]


def test_the_address_plan_is_that_of_other_providers() -> None:
    plan = network_plan.make(profile(), {"ipv4": "10.213.4.0/24"})
    specs = environment_nodes.planned(profile(), cast(NetworkPlan, plan))
    assert [(node.name, node.interfaces) for node in specs] == [("master-0", ["10.213.4.10/24"])]


def test_a_filesystem_grows_once(tmp_path: Path) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "file").write_text("content")
    base = tmp_path / "root.raw"
    libvirt_image.filesystem(folder, base, "devenv-root")
    assert libvirt_image.of_size(base, 1 << 20) == base
    large = libvirt_image.of_size(base, 1 << 30)
    assert (large.stat().st_size, base.stat().st_size) == (1 << 30, 129 << 20)
    # Sparse: it occupies no more than its content.
    assert large.stat().st_blocks * 512 < 40 << 20
    checked = subprocess.run(["e2fsck", "-fn", str(large)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert "262144 blocks" in checked.stdout
    inode = large.stat().st_ino
    assert libvirt_image.of_size(base, 1 << 30).stat().st_ino == inode


@pytest.mark.parametrize(("entries", "stays"), [(("common", "hostdevmgr"), False), (("common", "libvirt-sock"), True)])
def test_the_folder_of_a_libvirtd_stays(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: tuple[str, ...], stays: bool
) -> None:
    shared = tmp_path / "libvirt"
    for entry in entries:
        (shared / entry).mkdir(parents=True)
    monkeypatch.setattr(libvirt, "SHARED", shared)
    libvirt.write_network(network())
    libvirt.forget("lab")
    assert shared.exists() is stays


@pytest.mark.parametrize(("codes", "calls"), [([0], 1), ([-11, 0], 2), ([-11, -11, -11], 3)])
def test_a_killed_virsh_is_called_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, codes: list[int], calls: int
) -> None:
    libvirt.write_network(network())
    results = iter(codes)
    commands: list[str] = []

    def virsh(environment: str, *words: str, check: bool = True, timeout: float = 0) -> Result:
        commands.append(" ".join(words))
        return Result(next(results), "", "")

    monkeypatch.setattr(libvirt, "virsh", virsh)
    libvirt_provider.refresh("lab")
    assert commands == ["list --all"] * calls
    libvirt_provider.refresh("absent")
    assert len(commands) == calls


@pytest.mark.parametrize(("state", "notes"), [("running", ["worker-0 did not shut down within 0 s"]), ("shut off", [])])
def test_a_machine_that_ends_just_before_it_is_switched_off_is_not_a_failure(
    root: Path, monkeypatch: pytest.MonkeyPatch, state: str, notes: list[str]
) -> None:
    """``state`` is its state after the attempt to switch it off failed."""
    states = ["running"]
    commands: list[str] = []

    def virsh(environment: str, *words: str, check: bool = True, timeout: float = 0) -> Result:
        commands.append(words[0])
        if words[0] != "destroy" or len(states) > 1:
            return Result(0, "", "")
        states.append(state)
        return Result(1, "", "error: domain is not running")

    monkeypatch.setattr(libvirt, "virsh", virsh)
    monkeypatch.setattr(
        libvirt, "machines", lambda name: [libvirt.Machine("lab-worker-0", name, "worker-0", "", states[-1], 1)]
    )
    monkeypatch.setattr(dhcp, "stop", lambda name: False)
    outcome = Provider().stop(Request("lab", profile()), grace=0)
    assert (outcome.stopped, outcome.notes) == (["worker-0"], notes)
    assert commands == ["shutdown", *["destroy"] * (2 if notes else 1)]


def test_nodes_get_disks_and_a_definition_before_they_start(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEVENV_HOME", str(tmp_path / "home"))
    libvirt.write_network(network())
    image = tmp_path / "image"
    image.mkdir()
    for name in (libvirt_image.KERNEL, libvirt_image.INITRD, libvirt_image.ROOT):
        (image / name).touch()
    commands: list[str] = []

    def virsh(environment: str, *words: str, check: bool = True, timeout: float = 0) -> Result:
        commands.append(words[0] if words[0] != "start" else " ".join(words))
        return Result(0, "", "")

    monkeypatch.setattr(libvirt, "virsh", virsh)
    monkeypatch.setattr(libvirt_provider.program, "run", lambda argv, **_: Path(argv[-1]).touch())
    request = Request("lab", profile(), options={"image": str(image), "images_disk": "", "kvm": False})
    (request.folder / "ssh" / "hosts" / "worker-0").mkdir(parents=True)
    plan: Any = {"bridge": "dv-12345678"}
    first, second = ProvisionOutcome(), ProvisionOutcome()
    with pytest.raises(DevenvError, match="worker-0: the disk is gone"):
        Provider().bring_up(request, plan, [NODE], ProvisionOutcome(), create=False)
    assert commands == ["list"]
    Provider().bring_up(request, plan, [NODE], first, create=True)
    Provider().bring_up(request, plan, [NODE], second, create=True)
    assert (first.made, first.started, second.made, second.started) == (["worker-0"], [], [], ["worker-0"])
    assert commands[1:] == ["list", "define", "start lab-worker-0"] * 2
    files = {entry.name for entry in libvirt_provider.node_folder(request.folder, "worker-0").iterdir()}
    assert files == {"vmlinuz", "initrd", "root.raw", "root.qcow2", "seed.tar"}
    assert "lab-worker-0" in (root / "lab" / "domain.xml").read_text()
    request = dataclasses.replace(request, profile=resolve("master-2pipe"))
    assert Provider().intact(request, []) == {"worker-0"}
    (libvirt_provider.node_folder(request.folder, "worker-0") / "root.qcow2").unlink()
    assert Provider().intact(request, []) == set()
    (request.folder / "inventory.yml").write_text("all: {hosts: {worker-0: {}}}")
    lost = ProvisionOutcome()
    Provider().bring_up(request, plan, [NODE], lost, create=True)
    assert lost.made == ["worker-0"]
    assert lost.warnings == ["worker-0: its disk was gone, so it was recreated: everything on it is lost"]
    assert first.warnings == []
