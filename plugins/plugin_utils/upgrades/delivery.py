"""Programs and images of another version brought to nodes that run, ahead of their upgrade: nothing uses them yet.

Programs are laid down in a folder of their own, from where the engine takes them node by node. Images go straight into
the container runtime, as their names differ. All nodes at once, only what a node lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import node_recipe
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import image_load, remote
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target

MODULE = "kubeadm.upgrade_stage"
PROGRAMS = "/usr/local/bin"
STAGE = "/var/lib/devenv/upgrade"
TIMEOUT = 900.0
# Only control plane nodes run these.
_CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")

Progress = Callable[[str], None]


def programs(bundle: Bundle) -> dict[str, str]:
    """Name to sha256 of the programs that a node gets of a bundle."""
    wanted = {f"bin/{name}": name for name in node_recipe.PROGRAMS}
    return {wanted[one.path]: one.sha256 for one in bundle.manifest.files if one.path in wanted}


def outdated(old: str, new: str) -> list[str]:
    """Images of ``old`` that ``new`` has no use for."""
    try:
        before = versions.wanted(old)
    except DevenvError:
        return []
    return sorted(set(before.kubeadm_images.values()) - set(versions.wanted(new).images.values()))


def deliver(
    bundle: Bundle, targets: Sequence[Target], control_plane: Sequence[str], progress: Progress, *, write: bool = True
) -> dict[str, list[str]]:
    """What each node (by name) lacked and has now; without ``write`` it still lacks it.

    Raises DevenvError ``upgrade_delivery`` with the names of all nodes where something went wrong, and
    ``image_load_failed``.
    """
    wanted = programs(bundle)
    arguments = {"programs": wanted, "folders": [PROGRAMS], "stage": STAGE, "write": write}
    answers = remote.ask_all(targets, remote.program(MODULE, "look", arguments), TIMEOUT)
    _raise([f"{name}: {one.trouble}" for name, one in answers.items() if one.trouble])
    lacked: dict[str, list[str]] = {one.name: [*answers[one.name].data["missing"]] for one in targets}
    held = {one.name: image_load.parse_check(answers[one.name].data["images"]) for one in targets}
    if write:
        _programs(bundle, [one for one in targets if lacked[one.name]], lacked, progress)
    for image in bundle.manifest.images:
        lacking = [
            one for one in targets if image.name not in held[one.name] and _uses(one.name, image.name, control_plane)
        ]
        for one in lacking:
            lacked[one.name].append(image.name)
        if lacking and write:
            image_load.load(bundle.path / image.path, lacking, timeout=TIMEOUT, progress=progress)
    return {name: found for name, found in lacked.items() if found}


def _uses(node: str, image: str, control_plane: Sequence[str]) -> bool:
    return node in control_plane or image.rpartition(":")[0].rpartition("/")[2] not in _CONTROL_PLANE


def _programs(
    bundle: Bundle, targets: Sequence[Target], lacked: Mapping[str, Sequence[str]], progress: Progress
) -> None:
    if not targets:
        return
    progress(f"programs to {len(targets)} nodes")
    with ThreadPoolExecutor(max_workers=len(targets)) as pool:
        troubles = list(
            pool.map(
                lambda one: remote.send(one, [(bundle.bin(name), name) for name in lacked[one.name]], STAGE), targets
            )
        )
    _raise([f"{one.name}: {text}" for one, text in zip(targets, troubles, strict=True) if text])


def _raise(troubles: Sequence[str]) -> None:
    if troubles:
        raise DevenvError("upgrade_delivery", "; ".join(troubles))
