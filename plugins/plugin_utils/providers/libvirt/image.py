"""What virtual machines boot from: kernel, initial ramdisk and root filesystem, made of Debian packages and cached by
the digest of their inputs; and the proof that this host's KVM boots such a kernel.

No loop device, no partition and no boot loader: mke2fs fills filesystems from folders, QEMU loads the kernel itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, processes
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program as process
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import driver
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.node_recipe import (
    PROGRAMS,
    Progress,
    Recipe,
    root_digest,
    root_hooks,
)

# initramfs-tools reads these when the kernel's package is configured, so they are there before it.
INITRAMFS = "/etc/initramfs-tools"
KERNEL, INITRD, ROOT = "vmlinuz", "initrd", "root.raw"
# Written by the first program of the initial ramdisk (init of initramfs-tools): the kernel runs programs.
USERSPACE = b"Loading, please wait"
KVM_LIMIT = 30.0


@dataclass(frozen=True)
class Image:
    """A folder with kernel, initial ramdisk and root filesystem (raw)."""

    path: Path

    @property
    def kernel(self) -> Path:
        return self.path / KERNEL

    @property
    def initrd(self) -> Path:
        return self.path / INITRD

    @property
    def root(self) -> Path:
        return self.path / ROOT


def folder(cache: Path) -> Path:
    """Where images and disks are kept."""
    return cache / "virtual-machines"


def image_of(recipe: Recipe, hook: Path, bundle_digest: str, cache: Path) -> Image:
    """Where the image made of these inputs is, or will be."""
    inputs = f"{root_digest(recipe)} {bundle_digest} {' '.join(PROGRAMS)}".encode() + hook.read_bytes()
    return Image(folder(cache) / f"root-{hashlib.sha256(inputs).hexdigest()[:12]}")


def ensure_image(
    recipe: Recipe, hook: Path, bundle_digest: str, program: Callable[[str], Path], cache: Path, progress: Progress
) -> bool:
    """Make the image unless it is there; ``hook`` names the modules of the initial ramdisk. Return whether it was made.

    Raises DevenvError ``node_image_failed``.
    """
    image = image_of(recipe, hook, bundle_digest, cache)
    if image.path.is_dir():
        return False
    with files.exclusive(cache / "virtual-machines.lock"):
        if image.path.is_dir():
            return False
        made = _fresh(image.path)
        root = made / "root"
        progress(f"image of virtual machines: Debian {recipe.suite}, {len(recipe.packages)} packages")
        try:
            process.run(_mmdebstrap(recipe, hook, root), timeout=1800)
            for name in PROGRAMS:
                shutil.copy2(program(name), root / "usr/local/bin" / name)
            shutil.copy2(next(root.glob("boot/vmlinuz-*")), made / KERNEL)
            shutil.copy2(next(root.glob("boot/initrd.img-*")), made / INITRD)
            progress("image of virtual machines: root filesystem")
            filesystem(root, made / ROOT, "devenv-root")
        except (process.ProgramFailed, OSError, StopIteration) as failure:
            raise DevenvError(
                "node_image_failed", f"the image of virtual machines could not be made: {failure}"
            ) from failure
        shutil.rmtree(root)
        os.replace(made, image.path)
    return True


def _fresh(target: Path) -> Path:
    """A folder beside ``target`` to fill; what a killed run left there goes."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in target.parent.glob(".making-*"):
        shutil.rmtree(left)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    # mmdebstrap must be able to enter it as another user while it unpacks.
    made.chmod(0o755)
    return made


def _mmdebstrap(recipe: Recipe, hook: Path, target: Path) -> list[str]:
    hooks = [
        f'--essential-hook=mkdir -p "$1{INITRAMFS}/hooks" "$1{INITRAMFS}/conf.d"',
        f'--essential-hook=echo MODULES=list > "$1{INITRAMFS}/conf.d/devenv"',
        f"--essential-hook=upload {hook} {INITRAMFS}/hooks/devenv",
        f'--essential-hook=chmod 755 "$1{INITRAMFS}/hooks/devenv"',
        *root_hooks(recipe),
    ]
    argv = [
        "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(sorted(recipe.packages))}",
        # Translations and manuals would be a fifth of the image.
        "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/man/*",
        *hooks, recipe.suite, str(target),
    ]  # fmt: skip
    return [*argv, recipe.mirror] if recipe.mirror else argv


def filesystem(source: Path, target: Path, label: str) -> None:
    """Put what is in the folder ``source`` into a new ext4 filesystem in the file ``target``, with a little room."""
    used = int(process.run(["du", "--summarize", "--block-size=1M", str(source)], timeout=300).stdout.split()[0])
    size = used + used // 4 + 128
    # No quota of root's, and nothing that an older kernel would not know.
    words = ["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", label, "-d", str(source), str(target), f"{size}M"]
    process.run(["mke2fs", *words], timeout=900)


def of_size(base: Path, size: int) -> Path:
    """The filesystem in the file ``base`` grown to ``size`` bytes, made once for each size: an emulated node would take
    long to do it. One that is as large already stays as it is.
    """
    whole = size >> 20 << 20
    if whole <= base.stat().st_size:
        return base
    target = base.with_name(f"{base.stem}-{whole >> 20}.raw")
    with files.exclusive(base.parent / ".growing.lock"):
        if not target.is_file():
            made = target.with_name(f".{target.name}")
            made.unlink(missing_ok=True)
            process.run(["cp", "--sparse=always", str(base), str(made)], timeout=600)
            os.truncate(made, whole)
            # -f: it was never mounted, so there is nothing to check first.
            process.run(["resize2fs", "-f", str(made)], timeout=600)
            os.replace(made, target)
    return target


def images_disk(store: Path, cache: Path) -> Path:
    """Where the filesystem with the content of an image store is, or will be."""
    return folder(cache) / f"images-{store.name}.raw"


def ensure_images_disk(store: Path, cache: Path, progress: Progress) -> bool:
    """Make a filesystem of an image store (providers/image_store.py) unless it is there. Raises DevenvError
    ``node_image_failed``.
    """
    target = images_disk(store, cache)
    if target.is_file():
        return False
    with files.exclusive(cache / "virtual-machines.lock"):
        if target.is_file():
            return False
        progress("image of virtual machines: unpacked images of Kubernetes")
        made = _fresh(target)
        try:
            filesystem(store, made / target.name, "devenv-images")
        except (process.ProgramFailed, OSError) as failure:
            raise DevenvError("node_image_failed", f"the disk of images could not be made: {failure}") from failure
        os.replace(made / target.name, target)
        made.rmdir()
    return True


# --- KVM --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kvm:
    """Whether this host's KVM can be used, and what to tell of it. ``usable`` None: not tried yet."""

    usable: bool | None
    words: str


def kvm_known(cache: Path, device: Path = Path("/dev/kvm")) -> Kvm:
    """What is known without trying: of this boot, since a new kernel or machine may answer differently."""
    if not device.exists():
        return Kvm(False, "no /dev/kvm: nodes are emulated, slowly")
    try:
        seen = json.loads((cache / "kvm.json").read_text())
    except (OSError, ValueError):
        seen = {}
    if not isinstance(seen, Mapping) or seen.get("boot") != processes.boot_id():
        return Kvm(None, "/dev/kvm is there; the first node tries whether it boots a kernel")
    if seen.get("boots"):
        return Kvm(True, f"boots a kernel in {seen['seconds']} s")
    return Kvm(False, f"/dev/kvm is there but booted no kernel within {KVM_LIMIT:.0f} s: nodes are emulated, slowly")


def prove_kvm(image: Image, cache: Path, progress: Progress, emulator: Sequence[str] = (driver.EMULATOR,)) -> Kvm:
    """Boot the nodes' kernel by KVM, once a boot of this host: the device alone proves nothing."""
    kvm = kvm_known(cache)
    if kvm.usable is not None:
        return kvm
    with files.exclusive(cache / "kvm.lock"):
        kvm = kvm_known(cache)
        if kvm.usable is None:
            progress("try whether KVM boots a kernel")
            seconds = boots(image, emulator, KVM_LIMIT)
            proof = {"boot": processes.boot_id(), "boots": seconds is not None, "seconds": round(seconds or 0, 1)}
            files.write(cache / "kvm.json", json.dumps(proof))
            kvm = kvm_known(cache)
    return kvm


def boots(image: Image, emulator: Sequence[str], limit: float) -> float | None:
    """Seconds until the image's kernel ran its first program by KVM, or None when it did not within ``limit``."""
    argv = [
        *emulator, "-accel", "kvm", "-machine", "q35", "-cpu", "host", "-m", "256", "-nodefaults", "-nographic",
        "-no-reboot", "-serial", "stdio", "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-append", "console=ttyS0 panic=-1",
    ]  # fmt: skip
    begun, seconds = time.monotonic(), 0.0

    def read(console: IO[bytes]) -> bool:
        nonlocal seconds
        tail = b""
        while chunk := os.read(console.fileno(), 65536):
            tail = tail[-len(USERSPACE) :] + chunk
            if USERSPACE in tail:
                seconds = time.monotonic() - begun
                return True
        return False

    with contextlib.suppress(process.ProgramFailed):
        process.run(argv, stdout=read, timeout=limit)
    return seconds or None
