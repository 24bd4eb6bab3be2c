"""The node image and the image store of the podman provider: built once, cached by the digest of their inputs.

Three layers of work, each redone only when its own inputs change: the Debian root (packages), the node image (root +
the bundle's programs), the image store (containerd's folder with the bundle's images unpacked, which nodes get as hard
links).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program as process
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman.cli import image_exists, podman

REPOSITORY = "localhost/devenv-node"
ROOT_REPOSITORY = "localhost/devenv-root"
PROGRAMS = ("kubeadm", "kubelet", "kubectl", "containerd", "containerd-shim-runc-v2", "ctr", "etcdctl")

# containerd writes to its two databases in place; all else in its folder is written once, so hard links are safe.
WRITTEN_IN_PLACE = (
    "io.containerd.metadata.v1.bolt/meta.db",
    "io.containerd.snapshotter.v1.overlayfs/metadata.db",
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """Inputs of the image. ``files`` maps a path in the node to a file on this host; ``masked`` are systemd units."""

    suite: str
    mirror: str
    packages: Sequence[str]
    masked: Sequence[str]
    files: Mapping[str, Path]


# The options of a module that makes an image of a recipe.
RECIPE: dict[str, dict[str, Any]] = {
    "suite": {"type": "str", "required": True},
    "mirror": {"type": "str", "default": ""},
    "packages": {"type": "list", "elements": "str", "required": True},
    "masked": {"type": "list", "elements": "str", "required": True},
    "files": {"type": "dict", "required": True},
}


def recipe_of(options: Mapping[str, Any]) -> Recipe:
    """The recipe that a module's options (RECIPE) describe."""
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


def image_reference(recipe: Recipe, bundle_digest: str) -> str:
    """Name of the node image made of ``recipe`` and the bundle with this digest."""
    combined = hashlib.sha256(f"{root_digest(recipe)} {bundle_digest} {' '.join(PROGRAMS)}".encode()).hexdigest()
    return f"{REPOSITORY}:{combined[:12]}"


def ensure_image(
    recipe: Recipe, bundle_digest: str, program: Callable[[str], Path], cache: Path, progress: Progress
) -> bool:
    """Make the node image unless it is there. ``program`` gives the path of one of the bundle's programs."""
    reference = image_reference(recipe, bundle_digest)
    if image_exists(reference):
        return False
    with files.exclusive(cache / "node-image.lock"):
        if image_exists(reference):
            return False
        root = f"{ROOT_REPOSITORY}:{root_digest(recipe)}"
        if not image_exists(root):
            _make_root(recipe, root, cache, progress)
        progress("node image: add the bundle's programs")
        with tempfile.TemporaryDirectory(dir=cache, prefix="node-image-") as folder:
            context = Path(folder)
            for name in PROGRAMS:
                _link_or_copy(program(name), context / name)
            (context / "Containerfile").write_text(f"FROM {root}\nCOPY {' '.join(PROGRAMS)} /usr/local/bin/\n")
            podman("build", "--quiet", "--tag", reference, "--network", "none", folder, timeout=600)
    return True


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


def _make_root(recipe: Recipe, reference: str, cache: Path, progress: Progress) -> None:
    progress(f"node image: Debian {recipe.suite} root, {len(recipe.packages)} packages")
    with tempfile.TemporaryDirectory(dir=cache, prefix="node-root-") as folder:
        archive = Path(folder) / "root.tar"
        argv = [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(sorted(recipe.packages))}",
            *root_hooks(recipe),
            recipe.suite,
            str(archive),
        ]
        if recipe.mirror:
            argv.append(recipe.mirror)
        # mmdebstrap must be able to enter the folder as another user while it unpacks.
        os.chmod(folder, 0o755)
        try:
            process.run(argv, timeout=1800)
        except process.ProgramFailed as failure:
            raise DevenvError(
                "node_image_failed", f"the Debian root of the node image could not be made: {failure}"
            ) from failure
        progress("node image: import the root")
        podman(
            "import", "--quiet", "--change", 'CMD ["/usr/local/sbin/node-init"]', str(archive), reference, timeout=600
        )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def store_path(cache: Path, bundle_digest: str) -> Path:
    return cache / "image-stores" / bundle_digest[:12]


def ensure_store(reference: str, bundle_digest: str, images: Sequence[Path], cache: Path, progress: Progress) -> bool:
    """Fill containerd's folder with the bundle's images, unpacked, unless that was done before."""
    store = store_path(cache, bundle_digest)
    if store.is_dir():
        return False
    with files.exclusive(cache / "image-store.lock"):
        if store.is_dir():
            return False
        store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in store.parent.glob(".filling-*"):
            shutil.rmtree(left)
        progress(f"image store: unpack {len(images)} images once")
        folder = Path(tempfile.mkdtemp(dir=store.parent, prefix=".filling-"))
        _fill(reference, folder, images, store.name)
        os.replace(folder, store)
    return True


def extended_path(cache: Path, bundle_digest: str, archive: Path) -> Path:
    """Store of a bundle with the images of an archive whose name tells what is in it."""
    return store_path(cache, hashlib.sha256(f"{bundle_digest} {archive.name}".encode()).hexdigest())


def extend_store(reference: str, bundle_digest: str, archive: Path, cache: Path, progress: Progress) -> bool:
    """Make a store with the images of ``archive`` beside the bundle's, which are shared, unless there is one."""
    store = extended_path(cache, bundle_digest, archive)
    if store.is_dir():
        return False
    with files.exclusive(cache / "image-store.lock"):
        if store.is_dir():
            return False
        for left in store.parent.glob(".filling-*"):
            shutil.rmtree(left)
        progress("image store: unpack the snapshot's images once")
        folder = Path(tempfile.mkdtemp(dir=store.parent, prefix=".filling-"))
        copy_store(store_path(cache, bundle_digest), folder)
        _fill(reference, folder, [archive], store.name)
        os.replace(folder, store)
    return True


def _fill(reference: str, folder: Path, images: Sequence[Path], name: str) -> None:
    """Import archives of images into containerd's folder ``folder``, in a node that is there for nothing else."""
    name = f"devenv-store-{name}"
    process.run(["podman", "rm", "--force", "--ignore", "--time", "0", name])
    podman(
        "run", "--rm", "--name", name, "--network", "none", *RUNTIME_FLAGS,
        "--volume", f"{folder}:/var/lib/containerd",
        *(f"--volume={image}:/images/{image.name}:ro" for image in images),
        reference, "/bin/sh", "-ec", _FILL,
        timeout=900,
    )  # fmt: skip


# No CAP_SYS_RESOURCE is needed with limits below the host's own; runc, since crun refuses a hybrid cgroup host.
RUNTIME_FLAGS = (
    "--runtime=runc", "--privileged", "--cgroupns=private", "--pids-limit=-1",
    "--ulimit=nofile=20000:20000", "--ulimit=nproc=30000:30000",
)  # fmt: skip

_FILL = """
containerd >/tmp/containerd.log 2>&1 & daemon=$!
tries=0
until ctr version >/dev/null 2>&1; do
  tries=$((tries + 1)); [ $tries -lt 150 ] || { cat /tmp/containerd.log >&2; exit 1; }
  sleep 0.2
done
for image in /images/*.tar; do ctr --namespace k8s.io images import "$image" >/dev/null; done
kill $daemon
wait $daemon || :
"""


def copy_store(store: Path, target: Path) -> bool:
    """Give a node its own store at ``target``. Return False when links were not possible and the data were copied."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    linked = store.stat().st_dev == target.parent.stat().st_dev
    process.run(["cp", "--archive", *(["--link"] if linked else []), f"{store}/.", str(target)], timeout=600)
    for name in WRITTEN_IN_PLACE if linked else ():
        original, copy = store / name, target / name
        copy.unlink()
        shutil.copy2(original, copy)
    return linked
