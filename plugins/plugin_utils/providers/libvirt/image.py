"""Images of virtual machines: kernel, initial ramdisk and root filesystem, built from Debian packages and cached by the
digest of their inputs; and the test whether this host's KVM boots such a kernel.

There is no loop device, partition or boot loader: mke2fs fills filesystems from folders, and QEMU loads the kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, processes
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program as process
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.image_store import build_once
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import driver
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.node_recipe import (
    PROGRAMS,
    Progress,
    Recipe,
    mmdebstrap,
    root_digest,
)

# initramfs-tools reads these when the kernel's package is configured, so they must exist before that.
INITRAMFS = "/etc/initramfs-tools"
# The files of an image's folder; the root filesystem is raw.
KERNEL, INITRD, ROOT = "vmlinuz", "initrd", "root.raw"
# Printed by the first program of the initial ramdisk (init of initramfs-tools): the kernel runs programs.
USERSPACE = b"Loading, please wait"
KVM_LIMIT = 30.0


def folder(cache: Path) -> Path:
    """Return the folder of images and disks."""
    return cache / "virtual-machines"


def image_path(recipe: Recipe, hook: Path, bundle_digest: str, cache: Path) -> Path:
    """Return the folder of the image with these inputs, whether it exists or not."""
    inputs = f"{root_digest(recipe)} {bundle_digest} {' '.join(PROGRAMS)}".encode() + hook.read_bytes()
    return folder(cache) / f"root-{hashlib.sha256(inputs).hexdigest()[:12]}"


def ensure_image(
    recipe: Recipe, hook: Path, bundle_digest: str, program: Callable[[str], Path], cache: Path, progress: Progress
) -> bool:
    """Build the image unless it exists; ``hook`` names the modules of the initial ramdisk, ``program`` returns the path
    of a binary in the bundle. Return whether it was missing. Raises DevenvError ``node_image_failed``.
    """
    hooks = [
        f'--essential-hook=mkdir -p "$1{INITRAMFS}/hooks" "$1{INITRAMFS}/conf.d"',
        f'--essential-hook=echo MODULES=list > "$1{INITRAMFS}/conf.d/devenv"',
        f"--essential-hook=upload {shlex.quote(str(hook))} {INITRAMFS}/hooks/devenv",
        f'--essential-hook=chmod 755 "$1{INITRAMFS}/hooks/devenv"',
        # Translations and manuals would be a fifth of the image.
        "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/man/*",
    ]  # fmt: skip

    def build(image: Path) -> None:
        root = image / "root"
        image.mkdir()
        progress(f"image of virtual machines: Debian {recipe.suite}, {len(recipe.packages)} packages")
        process.run(mmdebstrap(recipe, root, "--mode=root", *hooks), timeout=1800)
        for name in PROGRAMS:
            shutil.copy2(program(name), root / "usr/local/bin" / name)
        shutil.copy2(next(root.glob("boot/vmlinuz-*")), image / KERNEL)
        shutil.copy2(next(root.glob("boot/initrd.img-*")), image / INITRD)
        progress("image of virtual machines: root filesystem")
        filesystem(root, image / ROOT, "devenv-root")
        shutil.rmtree(root)

    with _failure("the image of virtual machines"):
        return build_once(image_path(recipe, hook, bundle_digest, cache), build)


@contextlib.contextmanager
def _failure(subject: str) -> Iterator[None]:
    try:
        yield
    except (process.ProgramFailed, OSError, StopIteration) as failure:
        raise DevenvError("node_image_failed", f"{subject} could not be built: {failure}") from failure


def filesystem(source: Path, target: Path, label: str) -> None:
    """Create an ext4 filesystem in the file ``target`` with the content of the folder ``source`` and a little room."""
    used = int(process.run(["du", "--summarize", "--block-size=1M", str(source)], timeout=300).stdout.split()[0])
    size = used + used // 4 + 128
    # No blocks reserved for root.
    words = ["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", label, "-d", str(source), str(target), f"{size}M"]
    process.run(["mke2fs", *words], timeout=900)


def of_size(base: Path, size: int) -> Path:
    """Return the filesystem in the file ``base``, grown to ``size`` bytes unless it is as large already.

    Each size is built once: an emulated node would take long to grow it.
    """
    whole = size >> 20 << 20
    if whole <= base.stat().st_size:
        return base

    def build(target: Path) -> None:
        process.run(["cp", "--sparse=always", str(base), str(target)], timeout=600)
        os.truncate(target, whole)
        # -f: it was never mounted, so no check is needed first.
        process.run(["resize2fs", "-f", str(target)], timeout=600)

    target = base.with_name(f"{base.stem}-{whole >> 20}.raw")
    build_once(target, build)
    return target


def images_disk(store: Path, cache: Path) -> Path:
    """Return the file of the filesystem with the content of an image store, whether it exists or not."""
    return folder(cache) / f"images-{store.name}.raw"


def ensure_images_disk(store: Path, cache: Path, progress: Progress) -> bool:
    """Build a filesystem of an image store (providers/image_store.py) unless it exists. Return whether it was missing.

    Raises DevenvError ``node_image_failed``.
    """

    def build(target: Path) -> None:
        progress("image of virtual machines: unpacked images of Kubernetes")
        filesystem(store, target, "devenv-images")

    with _failure("the disk of images"):
        return build_once(images_disk(store, cache), build)


# --- KVM --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kvm:
    """Whether this host's KVM works, and a description of that for people. ``usable`` None: not tried yet."""

    usable: bool | None
    description: str


def known_kvm(cache: Path, device: Path = Path("/dev/kvm")) -> Kvm:
    """Return the result recorded since this host's boot: another kernel or machine may behave differently."""
    if not device.exists():
        return Kvm(False, "no /dev/kvm: nodes are emulated, slowly")
    record = files.read_json(cache / "kvm.json", dict) or {}
    if record.get("boot") != processes.boot_id():
        return Kvm(None, "/dev/kvm exists; the first node tries whether it boots a kernel")
    if record.get("boots"):
        return Kvm(True, f"boots a kernel in {record['seconds']} s")
    return Kvm(False, f"/dev/kvm exists but booted no kernel within {KVM_LIMIT:.0f} s: nodes are emulated, slowly")


def prove_kvm(image: Path, cache: Path, progress: Progress, emulator: Sequence[str] = (driver.EMULATOR,)) -> Kvm:
    """Boot the nodes' kernel with KVM, once per boot of this host: the device alone proves nothing."""
    with files.exclusive(cache / "kvm.lock"):
        kvm = known_kvm(cache)
        if kvm.usable is None:
            progress("try whether KVM boots a kernel")
            seconds = boots(image, emulator, KVM_LIMIT)
            record = {"boot": processes.boot_id(), "boots": seconds is not None, "seconds": round(seconds or 0, 1)}
            files.write(cache / "kvm.json", json.dumps(record))
            kvm = known_kvm(cache)
    return kvm


def boots(image: Path, emulator: Sequence[str], limit: float) -> float | None:
    """Return the seconds until the image's kernel ran its first program with KVM, None if more than ``limit``."""
    argv = [
        *emulator, "-accel", "kvm", "-machine", "q35", "-cpu", "host", "-m", "256", "-nodefaults", "-nographic",
        "-no-reboot", "-serial", "stdio", "-kernel", str(image / KERNEL), "-initrd", str(image / INITRD),
        "-append", "console=ttyS0 panic=-1",
    ]  # fmt: skip
    begin, seconds = time.monotonic(), 0.0

    def read(console: IO[bytes]) -> bool:
        nonlocal seconds
        tail = b""
        while chunk := os.read(console.fileno(), 65536):
            tail = tail[-len(USERSPACE) :] + chunk
            if USERSPACE in tail:
                seconds = time.monotonic() - begin
                return True
        return False

    with contextlib.suppress(process.ProgramFailed):
        process.run(argv, stdout=read, timeout=limit)
    return seconds or None
