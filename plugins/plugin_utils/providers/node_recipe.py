"""The recipe of a node's Debian root, shared by all providers that make nodes: packages, files, masked units."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = ("kubeadm", "kubelet", "kubectl", "containerd", "containerd-shim-runc-v2", "ctr", "etcdctl")

# What making nodes takes on this host, with Debian's packages.
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
    """Inputs of the image. ``files`` maps a path in the node to a file on this host; ``masked`` are systemd units."""

    suite: str
    mirror: str
    packages: Sequence[str]
    masked: Sequence[str]
    files: Mapping[str, Path]


def recipe_of(options: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a module's options describe (doc_fragments/node_recipe.py)."""
    files_of_node = {target: Path(source) for target, source in options["files"].items()}
    return Recipe(options["suite"], options["mirror"], options["packages"], options["masked"], files_of_node)


def root_digest(recipe: Recipe) -> str:
    """12 hex digits that change with anything that goes into the Debian root."""
    digest = hashlib.sha256()
    for part in (recipe.suite, *sorted(recipe.packages), "masked", *sorted(recipe.masked)):
        digest.update(part.encode() + b"\0")
    for target, source in sorted(recipe.files.items()):
        digest.update(target.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def root_hooks(recipe: Recipe) -> list[str]:
    """Arguments of mmdebstrap that put the recipe's files into the root, and take out what belongs to one machine."""
    hooks = [f'--customize-hook=chroot "$1" systemctl mask {" ".join(recipe.masked)}']
    for target, source in sorted(recipe.files.items()):
        hooks.append(f'--customize-hook=mkdir -p "$1{os.path.dirname(target)}"')
        hooks.append(f"--customize-hook=upload {source} {target}")
        mode = "755" if os.access(source, os.X_OK) else "644"
        hooks.append(f'--customize-hook=chmod {mode} "$1{target}"')
    # Host keys and the machine's id belong to one machine, never to an image.
    return [*hooks, '--customize-hook=rm -f "$1"/etc/ssh/ssh_host_* ; : > "$1/etc/machine-id"']
