"""The node image of containers: the Debian root (packages) with the bundle's binaries, each layer built once and cached
by the digest of its inputs; and the container that fills an image store.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program as process
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host import limits
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.image_store import link_or_copy
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.node_recipe import (
    PROGRAMS,
    Progress,
    Recipe,
    mmdebstrap,
    root_digest,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman.cli import image_exists, podman

REPOSITORY = "localhost/devenv-node"
ROOT_REPOSITORY = "localhost/devenv-root"


def image_reference(recipe: Recipe, bundle_digest: str) -> str:
    """Return the name of the node image built from ``recipe`` and the bundle with this digest."""
    combined = hashlib.sha256(f"{root_digest(recipe)} {bundle_digest} {' '.join(PROGRAMS)}".encode()).hexdigest()
    return f"{REPOSITORY}:{combined[:12]}"


def root_reference(recipe: Recipe) -> str:
    """Return the name of the image with the Debian root built from ``recipe``."""
    return f"{ROOT_REPOSITORY}:{root_digest(recipe)}"


def ensure_image(
    recipe: Recipe, bundle_digest: str, program: Callable[[str], Path], cache: Path, progress: Progress
) -> bool:
    """Build the node image unless it exists; ``program`` returns the path of a binary in the bundle. Return whether it
    was missing.
    """
    reference = image_reference(recipe, bundle_digest)
    if image_exists(reference):
        return False
    with files.exclusive(cache / "node-image.lock"):
        if image_exists(reference):
            return False
        root = root_reference(recipe)
        if not image_exists(root):
            _build_root(recipe, root, cache, progress)
        progress("node image: add the bundle's binaries")
        with tempfile.TemporaryDirectory(dir=cache, prefix="node-image-") as folder:
            context = Path(folder)
            for name in PROGRAMS:
                link_or_copy(program(name), context / name)
            (context / "Containerfile").write_text(f"FROM {root}\nCOPY {' '.join(PROGRAMS)} /usr/local/bin/\n")
            podman("build", "--quiet", "--tag", reference, "--network", "none", folder, timeout=600)
    return True


def _build_root(recipe: Recipe, reference: str, cache: Path, progress: Progress) -> None:
    progress(f"node image: Debian {recipe.suite} root, {len(recipe.packages)} packages")
    with tempfile.TemporaryDirectory(dir=cache, prefix="node-root-") as folder:
        archive = Path(folder, "root.tar")
        # mmdebstrap must be able to enter the folder as another user while it unpacks.
        os.chmod(folder, 0o755)
        try:
            process.run(mmdebstrap(recipe, archive), timeout=1800)
        except process.ProgramFailed as failure:
            message = f"the Debian root of the node image could not be built: {failure}"
            raise DevenvError("node_image_failed", message) from failure
        progress("node image: import the root")
        command = 'CMD ["/usr/local/sbin/node-init"]'
        podman("import", "--quiet", "--change", command, str(archive), reference, timeout=600)


def fill_store(reference: str, folder: Path, images: Sequence[Path], name: str) -> None:
    """Import archives of images into containerd's folder ``folder``, in a container of the node image."""
    name = f"devenv-store-{name}"
    podman("rm", "--force", "--ignore", "--time", "0", name)
    podman(
        "run", "--rm", "--name", name, "--network", "none", *runtime_flags(),
        "--volume", f"{folder}:/var/lib/containerd",
        *(f"--volume={image}:/images/{image.name}:ro" for image in images),
        reference, "/bin/sh", "-ec", _FILL,
        timeout=900,
    )  # fmt: skip


def runtime_flags() -> list[str]:
    """Return the flags of every container: with limits that this host has, so that no CAP_SYS_RESOURCE is needed; runc,
    since crun refuses a host with hybrid cgroups.
    """
    most = limits.open_files()
    return [
        "--runtime=runc", "--privileged", "--cgroupns=private", "--pids-limit=-1", "--userns=host", "--pid=private",
        "--ipc=private", "--uts=private", "--init=false", "--http-proxy=false", "--sdnotify=ignore",
        f"--ulimit=nofile={most}:{most}", "--ulimit=nproc=30000:30000",
    ]  # fmt: skip


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
