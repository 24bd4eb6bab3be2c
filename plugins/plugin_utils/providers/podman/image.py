"""The node image of containers: the Debian root (packages) with the bundle's binaries, each layer built once and cached
by the digest of its inputs; and the container that fills an image store.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
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
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman.cli import image_exists, mounted, podman

REPOSITORY = "localhost/devenv-node"
ROOT_REPOSITORY = "localhost/devenv-root"
# The digest of a base image, on every image built from it.
BASE_LABEL = "devenv.lab/base-image"
_COMMAND = 'CMD ["/usr/local/sbin/node-init"]'


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
        _ensure_root(recipe, root, cache, progress)
        progress("node image: add the bundle's binaries")
        with tempfile.TemporaryDirectory(dir=cache, prefix="node-image-") as folder:
            context = Path(folder)
            for name in PROGRAMS:
                link_or_copy(program(name), context / name)
            (context / "Containerfile").write_text(f"FROM {root}\nCOPY {' '.join(PROGRAMS)} /usr/local/bin/\n")
            podman("build", "--quiet", "--tag", reference, "--network", "none", folder, timeout=600)
    return True


def ensure_root(recipe: Recipe, cache: Path, progress: Progress) -> bool:
    """Build the root of the node image unless it exists. Return whether it was missing."""
    reference = root_reference(recipe)
    if image_exists(reference):
        return False
    with files.exclusive(cache / "node-image.lock"):
        return _ensure_root(recipe, reference, cache, progress)


def _ensure_root(recipe: Recipe, reference: str, cache: Path, progress: Progress) -> bool:
    if image_exists(reference):
        return False
    with tempfile.TemporaryDirectory(dir=cache, prefix="node-root-") as folder:
        # mmdebstrap must be able to enter the folder as another user while it unpacks.
        os.chmod(folder, 0o755)
        if recipe.rootfs:
            _import_rootfs(recipe, recipe.rootfs, reference, Path(folder), progress)
        else:
            _build_root(recipe, reference, Path(folder, "root.tar"), progress)
    return True


def _build_root(recipe: Recipe, reference: str, archive: Path, progress: Progress) -> None:
    progress(f"node image: Debian {recipe.suite} root, {len(recipe.packages)} packages")
    try:
        process.run(mmdebstrap(recipe, archive), timeout=1800)
    except process.ProgramFailed as failure:
        message = f"the Debian root of the node image could not be built: {failure}"
        advice = f"Debian {recipe.suite} must have the packages: {', '.join(recipe.packages)}" if recipe.base else ""
        raise DevenvError("node_image_failed", message, advice=advice) from failure
    progress("node image: import the root")
    label = [f"--change=LABEL {BASE_LABEL}={recipe.base}"] if recipe.base else []
    podman("import", "--quiet", "--change", _COMMAND, *label, str(archive), reference, timeout=600)


def _import_rootfs(recipe: Recipe, archive: Path, reference: str, context: Path, progress: Progress) -> None:
    """Import a root filesystem, and add the files and masked units of a node. Raises DevenvError ``base_image_invalid``
    if it lacks a package that nodes need.
    """
    progress("node image: import the root filesystem")
    imported = podman("import", "--quiet", str(archive), timeout=900).strip()
    try:
        if missing := sorted({*recipe.packages} - _installed(imported)):
            raise DevenvError("base_image_invalid", f"the rootfs lacks packages of a node: {', '.join(missing)}")
        lines = [f"FROM {imported}", f"LABEL {BASE_LABEL}={recipe.base}", _COMMAND]
        for number, (target, source) in enumerate(sorted(recipe.files.items())):
            shutil.copyfile(source, context / str(number))
            (context / str(number)).chmod(0o755 if os.access(source, os.X_OK) else 0o644)
            lines.append(f"COPY {json.dumps([str(number), target])}")
        (context / "machine-id").touch()
        (context / "units").mkdir()
        for unit in recipe.masked:
            (context / "units" / unit).symlink_to("/dev/null")
        lines += ["COPY machine-id /etc/machine-id", "COPY units/ /etc/systemd/system/"]
        (context / "Containerfile").write_text("\n".join(lines))
        # One layer, not one for each file.
        podman("build", "--quiet", "--layers=false", "--tag", reference, "--network", "none", str(context), timeout=600)
    except BaseException:
        podman("image", "rm", "--force", imported)
        raise


def _installed(image: str) -> set[str]:
    """Return the Debian packages that are installed in an image."""
    with mounted(image) as root:
        status = root / "var/lib/dpkg/status"
        return installed(status.read_text(errors="replace")) if status.is_file() else set()


def installed(status: str) -> set[str]:
    """Return the names of the installed packages in dpkg's file ``status``."""
    entries = [entry.splitlines() for entry in status.split("\n\n")]
    return {
        line.removeprefix("Package: ")
        for lines in entries
        if "Status: install ok installed" in lines
        for line in lines
        if line.startswith("Package: ")
    }


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
