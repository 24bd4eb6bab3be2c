"""The recipe of a node's Debian root, shared by all providers that create nodes: packages, files, masked units."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PROGRAMS = ("kubeadm", "kubelet", "kubectl", "containerd", "containerd-shim-runc-v2", "ctr", "crictl", "etcdctl")

# Programs that creating nodes needs on this host, with their Debian packages.
HOST_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """Inputs of the image. ``files`` maps a path in the node to a file on this host; ``masked`` are systemd units.

    A base image has a digest in ``base``, and can start from the archive ``rootfs``, which has the packages already.
    """

    suite: str
    mirror: str
    packages: Sequence[str]
    masked: Sequence[str]
    files: Mapping[str, Path]
    base: str = ""
    rootfs: Path | None = None


def recipe_of(options: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a module's options describe (doc_fragments/node_recipe.py)."""
    files_of_node = {target: Path(source) for target, source in options["files"].items()}
    return Recipe(options["suite"], options["mirror"], options["packages"], options["masked"], files_of_node)


def derived(
    recipe: Recipe, packages: Sequence[str], further: Mapping[str, Path], rootfs: Path | None, digest: str
) -> Recipe:
    """Return the recipe of a base image with ``digest``: that of the node, with ``packages`` and ``further`` files."""
    return replace(
        recipe,
        packages=sorted({*recipe.packages, *packages}),
        files={**further, **recipe.files},
        base=digest,
        rootfs=rootfs,
    )


def root_digest(recipe: Recipe) -> str:
    """Return 12 hex digits that change with everything that goes into the Debian root."""
    digest = hashlib.sha256()
    for part in (recipe.suite, *sorted(recipe.packages), "masked", *sorted(recipe.masked)):
        digest.update(part.encode() + b"\0")
    for target, source in sorted(recipe.files.items()):
        digest.update(target.encode() + b"\0" + source.read_bytes() + b"\0")
    digest.update(recipe.base.encode())
    return digest.hexdigest()[:12]


def mmdebstrap(recipe: Recipe, target: Path, *options: str) -> list[str]:
    """Return the command that unpacks the Debian root into ``target``, a folder or an archive."""
    hooks = [f'--customize-hook=chroot "$1" systemctl mask {" ".join(recipe.masked)}']
    for path, source in sorted(recipe.files.items()):
        mode = "755" if os.access(source, os.X_OK) else "644"
        hooks += [
            f'--customize-hook=mkdir -p "$1"{shlex.quote(os.path.dirname(path))}',
            f"--customize-hook=upload {shlex.quote(str(source))} {shlex.quote(path)}",
            f'--customize-hook=chmod {mode} "$1"{shlex.quote(path)}',
        ]
    # Host keys and the machine's id belong to one machine, never to an image.
    hooks.append('--customize-hook=rm -f "$1"/etc/ssh/ssh_host_* ; : > "$1/etc/machine-id"')
    packages = f"--include={','.join(sorted(recipe.packages))}"
    mirror = [recipe.mirror] if recipe.mirror else []
    return ["mmdebstrap", "--variant=minbase", packages, *options, *hooks, recipe.suite, str(target), *mirror]
