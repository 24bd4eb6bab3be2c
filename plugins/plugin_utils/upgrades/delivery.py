"""Deliver binaries and images of another version to running nodes before their upgrade.

Binaries go to a staging folder, from which the engine installs them node by node; images go directly into the container
runtime, as their names differ. All nodes are served in parallel and receive only what they lack.
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
# Images that only control plane nodes run.
_CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")

Progress = Callable[[str], None]


def programs(bundle: Bundle) -> dict[str, str]:
    """Return the binaries of a node in a bundle: name to sha256."""
    names = {f"bin/{name}": name for name in node_recipe.PROGRAMS}
    return {names[file.path]: file.sha256 for file in bundle.manifest.files if file.path in names}


def outdated(old: str, new: str) -> list[str]:
    """Return the images of version ``old`` that version ``new`` does not use."""
    try:
        before = versions.resolve(old)
    except DevenvError:
        return []
    return sorted(set(before.kubeadm_images.values()) - set(versions.resolve(new).images.values()))


def deliver(
    bundle: Bundle, targets: Sequence[Target], control_plane: Sequence[str], progress: Progress, *, write: bool = True
) -> dict[str, list[str]]:
    """Deliver what the nodes lack and return it by node; without ``write``, only return it.

    Raises DevenvError ``upgrade_delivery`` with all nodes whose delivery failed, and ``image_load_failed``.
    """
    arguments = {"programs": programs(bundle), "folders": [PROGRAMS], "stage": STAGE, "write": write}
    answers = remote.ask_all(targets, remote.program(MODULE, "look", arguments), TIMEOUT)
    _raise({name: answer.trouble for name, answer in answers.items()})
    lacked: dict[str, list[str]] = {name: [*answer.data["missing"]] for name, answer in answers.items()}
    loaded = {name: image_load.parse_check(answer.data["images"]) for name, answer in answers.items()}
    if write:
        _send(bundle, [target for target in targets if lacked[target.name]], lacked, progress)
    # Images of optional parts are loaded with their add-on.
    for image in bundle.manifest.images_of([versions.BASE]):
        lacking = [
            target
            for target in targets
            if image.name not in loaded[target.name] and _uses(target.name, image.name, control_plane)
        ]
        for target in lacking:
            lacked[target.name].append(image.name)
        if lacking and write:
            image_load.load(bundle.path / image.path, lacking, timeout=TIMEOUT, progress=progress)
    return {name: parts for name, parts in lacked.items() if parts}


def _uses(node: str, image: str, control_plane: Sequence[str]) -> bool:
    return node in control_plane or image.rpartition(":")[0].rpartition("/")[2] not in _CONTROL_PLANE


def _send(bundle: Bundle, targets: Sequence[Target], lacked: Mapping[str, Sequence[str]], progress: Progress) -> None:
    if not targets:
        return
    progress(f"send binaries to {len(targets)} nodes")

    def send(target: Target) -> str:
        return remote.send(target, [(bundle.bin(name), name) for name in lacked[target.name]], STAGE)

    with ThreadPoolExecutor(max_workers=len(targets)) as pool:
        _raise(dict(zip([target.name for target in targets], pool.map(send, targets), strict=True)))


def _raise(troubles: Mapping[str, str]) -> None:
    texts = [f"{name}: {text}" for name, text in troubles.items() if text]
    if texts:
        raise DevenvError("upgrade_delivery", "; ".join(texts))
