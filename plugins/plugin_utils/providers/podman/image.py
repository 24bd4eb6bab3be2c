"""The node image of containers: the Debian root (packages) and on it the bundle's programs, each built once and cached
by the digest of its inputs; and a container that fills an image store.
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
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.image_store import link_or_copy
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.node_recipe import (
    PROGRAMS,
    Progress,
    Recipe,
    root_digest,
    root_hooks,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman.cli import image_exists, podman

REPOSITORY = "localhost/devenv-node"
ROOT_REPOSITORY = "localhost/devenv-root"


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
                link_or_copy(program(name), context / name)
            (context / "Containerfile").write_text(f"FROM {root}\nCOPY {' '.join(PROGRAMS)} /usr/local/bin/\n")
            podman("build", "--quiet", "--tag", reference, "--network", "none", folder, timeout=600)
    return True


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


def fill_store(reference: str, folder: Path, images: Sequence[Path], name: str) -> None:
    """Import archives of images into containerd's folder ``folder``, in a container of the node image."""
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
